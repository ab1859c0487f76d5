"""Vocabularies: names, prompts, tokens, related classes."""

import pickle

import numpy as np
import pytest

from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import (
    Vocabulary,
    hierarchy_pairs,
    imagenet_templates,
    names_beyond,
    packaged_names,
    plain_name,
    words_of,
)

# Hashes of the benchmarks' names (the order included); those of the first seven are published.
HASHES = {
    "coco_stuff": (171, "8ea44449837dceb30923012b201fe0152adc612160d0d040c9cfcd77e95f6801"),
    "ade20k_150": (150, "2133f0a0e71146d00a14482f872bc5888f66d706f90f1b1333a7eb5025989af9"),
    "ade20k_847": (847, "ee311c5f3b780a16a58f40726927f6c41149860a5fca6c1116ea1dca129efd8b"),
    "pascal_context_59": (59, "1c0546d54360b6030db946e7e75f14a0778f37edebd0051b8834027f8b5aab89"),
    "pascal_context_459": (459, "f22a02ac1b8419bc30f91a47c3668be6880fd52106cfc7881500f5d9219f0269"),
    "voc_20": (20, "7d877f185c807bc51b4cfb4f4202fc0b4e1c6724b782ba245fe36f8d254f0ad7"),
    "voc_20b": (59, "245feb60aa05bd703db11091a160e85c5ca024849bd9dc5c41ad2d2fd11a362a"),
    "voc_21": (21, "301e5e4e2a9a7ab6bfd6c7e2b1d381d4dd465ddedf787b4b4ed802b3366deb6c"),
    "pascal_context_60": (60, "c262a74c26515f23bd5e99fbb729ed37d007207afe5859d1c0bc3c54a5d60ccd"),
    "coco_object": (81, "1f17b53017e442257cad2025ab981ddeb28d048af00dcac8ae810bc25a6a9a77"),
    "cityscapes": (19, "5995d02d6c574d515fa02371c8c2b5367f55cba8a732fed0567427c093f95adf"),
}


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_names_are_the_published_ones(name):
    packaged = Vocabulary.named(name)
    assert (len(packaged), packaged.sha256) == HASHES[name]


def test_every_published_list_is_packaged():
    assert packaged_names() == tuple(sorted(HASHES))


def test_lists_with_a_background_are_the_others_behind_it():
    for name, other, classes in (
        ("voc_21", "voc_20", 20),
        ("pascal_context_60", "pascal_context_59", 59),
        ("coco_object", "coco_stuff", 80),
    ):
        assert Vocabulary.named(name).names == ("background", *Vocabulary.named(other).names[:classes])


def test_words_that_a_model_does_not_know():
    words = words_of(["Red toy", "STRASSE, road"])
    assert words == {"red", "toy", "strasse,", "road"}
    assert names_beyond(["toy red", "a toy", "Road, path", "ROAD", "Stra\u00dfe,"], words) == ["a toy"]


def test_unknown_packaged_name():
    known = ", ".join(packaged_names())
    with pytest.raises(ValueError, match=f"no packaged vocabulary 'coco'; choose one of {known}$"):
        Vocabulary.named("coco")


def test_every_problem_is_listed_at_once():
    names = ("tree", " ", "sky", "Tree ", ", couch", "a\nb", "x <|EndOfText|>")
    with pytest.raises(ValueError, match="the vocabulary has 8 problem") as caught:
        Vocabulary(names, templates=("a photo", "{} {}"), synonyms="last", groups=("",) * 7)
    message = str(caught.value)
    for part in (
        "name 2 is empty (' ')",
        "name 4, 'Tree ', repeats name 1, 'tree'",
        "name 5 is empty (', couch')",
        "holds a line break",
        "name 7, 'x <|EndOfText|>', spells CLIP's special token <|endoftext|>",
        "template 'a photo' must hold exactly one {}",
        "template '{} {}' must hold exactly one {}",
    ):
        assert part in message


def test_no_names_and_other_settings():
    with pytest.raises(ValueError, match="there are no class names"):
        Vocabulary(())
    with pytest.raises(ValueError, match="synonym rule is 'last'; choose one of first, mean"):
        Vocabulary(("a",), synonyms="last")
    with pytest.raises(ValueError, match="there are no prompt templates"):
        Vocabulary(("a",), templates=())
    with pytest.raises(ValueError, match="1 groups for 2 names"):
        Vocabulary(("a", "b"), groups=("x",))


def test_from_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffroad\r\ntrash can, bin\r\ncaf\u00e9\r\n\r\n".encode())
    assert Vocabulary.from_file(path).names == ("road", "trash can, bin", "caf\u00e9")
    path.write_text("road\n\nsky\n")
    with pytest.raises(ValueError, match=r"classes\.txt: the vocabulary has 1 problem\(s\):\n  - name 2 is empty"):
        Vocabulary.from_file(path)
    path.write_bytes(b"stra\xdfe\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        Vocabulary.from_file(path)
    with pytest.raises(FileNotFoundError, match="no file of class names at"):
        Vocabulary.from_file(tmp_path / "none.txt")


def test_first_synonym_makes_the_prompt():
    assert Vocabulary(("sofa, couch", "tree")).prompts() == [
        ["A photo of a sofa in the scene"],
        ["A photo of a tree in the scene"],
    ]


def test_tokens_are_as_long_as_the_bucket_of_the_longest_prompt():
    tokens = Vocabulary(("person", "tree"), templates=("{}", "a {}", "the {}")).tokens()
    assert tokens.shape == (2, 3, 8)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[0, 1], [49406, 320, 2533, 49407, 0, 0, 0, 0])
    assert Vocabulary(("person",)).tokens().shape == (1, 1, 12)  # 10 tokens
    assert Vocabulary(("person",)).tokens(context=11).shape == (1, 1, 11)
    assert Vocabulary(("tree " * 60,)).tokens().shape == (1, 1, 77)


def test_too_long_names_are_all_named():
    with pytest.raises(ValueError, match="the text context holds 12 tokens") as caught:
        Vocabulary(("tree", "tall " * 5 + "house", "old " * 6)).tokens(context=12)
    assert "class 'tall tall tall tall tall house' makes a prompt of 15 tokens" in str(caught.value)
    assert "class 'old old old old old old ' makes a prompt of 15 tokens" in str(caught.value)
    assert "'tree'" not in str(caught.value)


def test_mean_rule_never_joins_synonyms_and_weighs_each_once():
    mean = Vocabulary(("sofa, couch, settee", "tree"), templates=("{}", "a {}"), synonyms="mean")
    assert mean.prompts() == [
        ["sofa", "a sofa", "couch", "a couch", "settee", "a settee"],
        ["tree", "a tree"] * 3,
    ]
    np.testing.assert_allclose(mean.prompt_weights, [[1 / 6] * 6, [1 / 2] * 2 + [0] * 4], rtol=1e-6)
    assert mean.tokens().shape == (2, 6, 8)


def test_pool_averages_on_the_sphere():
    pair = Vocabulary(("sofa, couch", "tree"), synonyms="mean")
    text = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]], np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(pair.pool(text), [[[half, half, 0.0]], [[0.0, 0.0, 1.0]]], rtol=1e-6)
    one = text[:, :1]
    assert Vocabulary(("sofa, couch", "tree")).pool(one) is one


def test_seen_by_compares_first_synonyms_of_any_case():
    training = Vocabulary(("Sofa, couch", "tree"))
    names = ("sofa", "couch", "TREE, plant", "sky")
    assert Vocabulary(names).seen_by(training).tolist() == [True, False, True, False]


def test_imagenet_templates():
    assert len(imagenet_templates()) == 80
    assert len(set(imagenet_templates())) == 80
    assert imagenet_templates()[0] == "a bad photo of a {}."
    assert Vocabulary(("tree",), templates=imagenet_templates()).tokens().shape == (1, 80, 12)


def test_hierarchy_pairs_by_hand():
    names = ("animal", "cat", "dog", "oak", "elm", "sky")
    parents, siblings = hierarchy_pairs(Vocabulary(names, groups=("", "animal", "animal", "tree", "tree", "")))
    assert parents.tolist() == [[0, 1], [0, 2]]
    assert siblings.tolist() == [[1, 2], [3, 4]]
    assert parents.dtype == siblings.dtype == np.int32


def test_hierarchy_pairs_of_coco_stuff_share_a_supercategory():
    coco = Vocabulary.named("coco_stuff")
    parents, siblings = hierarchy_pairs(coco)
    assert parents.shape == (0, 2)
    pairs = {(coco.names[a], coco.names[b]) for a, b in siblings}
    assert ("bicycle", "car") in pairs
    assert ("bicycle", "person") not in pairs
    sizes = np.unique(coco.groups, return_counts=True)[1]
    assert len(siblings) == (sizes * (sizes - 1) // 2).sum()


def test_no_groups_no_pairs():
    parents, siblings = hierarchy_pairs(Vocabulary(("a", "b")))
    assert parents.shape == siblings.shape == (0, 2)


def test_vocabularies_compare_and_pickle():

    one = Vocabulary.named("voc_20")
    assert pickle.loads(pickle.dumps(one)) == one
    np.testing.assert_array_equal(assign_colors(one.names), assign_colors(Vocabulary.named("voc_20").names))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cat .", "cat"),
        (" cat. ", "cat"),
        ("cat...", "cat"),
        ("sofa ., couch.", "sofa, couch"),
        ("St. Bernard .", "St. Bernard"),
        ("U.S.", "U.S."),
        ("flag of the U.S. .", "flag of the U.S."),
        ("wooden floor", "wooden floor"),
        (" . ", ""),
    ],
)
def test_names_without_the_full_stops_of_other_tools(given, meant):
    assert plain_name(given) == meant


def test_by_the_rule_best_every_synonym_is_a_query():
    best = Vocabulary(("sofa, couch, settee", "tree"), templates=("{}", "a {}"), synonyms="best")
    assert best.prompts() == [[word, f"a {word}"] for word in ("sofa", "couch", "settee", "tree")]
    np.testing.assert_array_equal(best.query_class, [0, 0, 0, 1])
    np.testing.assert_array_equal(best.prompt_weights, np.full((4, 2), 0.5))
    assert best.tokens().shape[:2] == (4, 2)
    assert best.pool(np.ones((4, 2, 3), np.float32)).shape == (4, 1, 3)
    for rule in ("first", "mean"):
        np.testing.assert_array_equal(Vocabulary(best.names, synonyms=rule).query_class, [0, 1])
    with pytest.raises(ValueError, match="class 'tree, bush bush bush' makes a prompt of"):
        Vocabulary(("sofa, couch", "tree, bush bush bush"), synonyms="best").tokens(11)
