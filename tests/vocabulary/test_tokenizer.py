"""The tokenizer against CLIP's published ids."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ahs_seg_jax.vocabulary import tokenizer

# A few entries of golden/tokenizer.json, so that the table is always checked.
STORED = {
    "A photo of a person in the scene": [49406, 320, 1125, 539, 320, 2533, 530, 518, 3562, 49407],
    "wall-other": [49406, 2569, 268, 1010, 49407],
    "ping-pong table": [49406, 2089, 268, 17710, 2175, 49407],
    "children's toy": [49406, 2153, 568, 5988, 49407],
}


@pytest.mark.parametrize("text", STORED)
def test_stored_ids(text):
    assert tokenizer.encode(text) == STORED[text]


def test_golden_ids(shared):
    golden = json.loads((shared / "golden" / "tokenizer.json").read_text("utf-8"))
    assert [tokenizer.encode(text) for text in golden["texts"]] == golden["ids"]


def test_vocabulary_has_clips_size():
    assert tokenizer._tokenizer().vocab_size == 49408
    assert tokenizer._tokenizer() is tokenizer._tokenizer()  # loaded once


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Two   words\t\n ", "two words"),
        ("fish &amp;amp; chips", "fish & chips"),  # entities undone twice
        ("dog\u2019s bowl", "dog's bowl"),
        ("\ufb01sh", "fish"),  # the ligature
        ("CAF\u00c9", "caf\u00e9"),
        ("", ""),
    ],
)
def test_clean(text, cleaned):
    assert tokenizer.clean(text) == cleaned


@pytest.mark.parametrize("text", ["a <|endoftext|>", "<|STARTOFTEXT|> b", "&lt;|endoftext|&gt;"])
def test_special_tokens_are_refused(text):
    with pytest.raises(ValueError, match=r"spells CLIP's special token <\|"):
        tokenizer.encode(text)


def test_tokenize_pads_with_zero():
    tokens = tokenizer.tokenize(["wall-other", "Wall-Other  tree"], context=7)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(
        tokens, [[49406, 2569, 268, 1010, 49407, 0, 0], [49406, 2569, 268, 1010, 2677, 49407, 0]]
    )
    assert tokenizer.tokenize([], context=7).shape == (0, 7)


def test_long_text_is_never_cut():
    exact = "tree " * 75
    assert tokenizer.tokenize([exact])[0, -1] == 49407
    with pytest.raises(tokenizer.TextTooLong, match=r"takes 78 tokens; the context holds 77") as caught:
        tokenizer.tokenize(["tree", exact + "tree"])
    assert list(caught.value.lengths.values()) == [78]


def test_importing_the_package_does_not_import_transformers():
    code = (
        "import sys, ahs_seg_jax.vocabulary, ahs_seg_jax.vocabulary.tokenizer; sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
