"""Text embeddings, padding, and models made ready for inference."""

import dataclasses

import jax
import numpy as np
import pytest

from ahs_seg_jax.inference import (
    encoding,
    pass_programs,
)
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.color_model import COLORS, PARAMS, ColorModel
from tests.support.images import photo
from tests.support.small import inference_model, random_params


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_text_is_padded_with_the_last_class(monkeypatch, at_once):
    monkeypatch.setattr(encoding, "PROMPTS_AT_ONCE", at_once)
    exact = encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(COLORS[:3]))
    np.testing.assert_array_equal(exact[:, 0], np.eye(3))
    text, mask = encoding.padded_text(exact, 8)
    np.testing.assert_array_equal(mask, [True] * 3 + [False] * 5)
    np.testing.assert_array_equal(text[:, 0], [*np.eye(3), *[[0, 0, 1]] * 5])
    np.testing.assert_array_equal(encoding.padded_text(exact, 3)[0], exact)


def test_several_prompts_are_averaged_on_the_sphere():
    vocabulary = Vocabulary(("red", "blue"), templates=("a {}", "a {} and green thing"))
    text = encoding.encode_vocabulary(ColorModel(), PARAMS, vocabulary)
    expected = np.array([[2, 1, 0], [0, 1, 2]]) / np.sqrt(5)  # the mean of [1, 0, 0] and [1, 1, 0], normalised
    np.testing.assert_allclose(text[:, 0], expected, rtol=1e-6)


def test_prompts_of_one_length_go_together(monkeypatch):
    """Whatever is computed together, a causal tower's embeddings are the same."""
    model, params = encoding.merged(AHSSeg(inference_model()), random_params(inference_model(), 1))
    vocabulary = Vocabulary(
        ("red", "a very old and crooked oak tree", "sky!"), ("{}", "one photograph of the {} there")
    )
    expected = encoding.encode_vocabulary(model, params, vocabulary)
    monkeypatch.setattr(encoding, "PROMPTS_AT_ONCE", 2)
    np.testing.assert_allclose(encoding.encode_vocabulary(model, params, vocabulary), expected, atol=1e-5)


def test_known_queries_are_not_encoded_again(monkeypatch):
    encoded, encode = [], encoding._encode
    monkeypatch.setattr(encoding, "_encode", lambda *args: encoded.append(len(args[2])) or encode(*args))
    known = encoding.KnownQueries(most=3)
    templates = ("a {}", "a {} and green thing")
    for names, new in (("red", "blue"), 2), (("blue", "green", "red"), 1), (("green", "red"), 0):
        vocabulary = Vocabulary(names, templates)
        text = encoding.encode_vocabulary(ColorModel(), PARAMS, vocabulary, known)
        np.testing.assert_array_equal(text, encoding.encode_vocabulary(ColorModel(), PARAMS, vocabulary))
        assert sum(encoded[:-1]) == new  # the last call knows nothing
        encoded.clear()
    encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(("red",)), known)  # other prompts
    assert encoded == [1]
    encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(("blue",), templates), known)  # forgotten
    assert encoded == [1, 1]


def test_prompts_must_fit_the_model():
    config = ColorModel().config
    model = ColorModel(config.replace(aggregator=dataclasses.replace(config.aggregator, prompts=3)))
    with pytest.raises(ValueError, match=r"gives 2 prompt\(s\) per class but model.aggregator.prompts is 3"):
        encoding.encode_vocabulary(model, PARAMS, Vocabulary(("red",), templates=("a {}", "the {}")))


def test_merged_rotations_change_nothing():
    model = AHSSeg(inference_model())
    params = random_params(inference_model(), 1)
    plain, folded = encoding.merged(model, params)
    assert plain.config.adaptation == "none"
    vocabulary = Vocabulary(COLORS)
    expected = encoding.encode_vocabulary(model, params, vocabulary)
    np.testing.assert_allclose(encoding.encode_vocabulary(plain, folded, vocabulary), expected, atol=1e-5)
    assert encoding.merged(plain, folded) == (plain, folded)


def test_listed_blocks_change_nothing():
    model, params = encoding.merged(AHSSeg(inference_model()), random_params(inference_model(), 1))
    listed = encoding.listed(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(listed)) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert encoding.listed(listed) is listed
    on_host = encoding.listed(jax.tree.map(np.asarray, params))
    kernel = on_host["clip"]["image"]["blocks"]["1"]["mlp_in"]["kernel"]
    assert kernel.base is not None, "a view, not a copy"
    jax.tree.map(np.testing.assert_array_equal, on_host, jax.tree.map(np.asarray, listed))
    views = photo(32, 32)[None].astype(np.float32)
    expected = pass_programs.encode_image(model, params, views)
    found = pass_programs.encode_image(model, listed, views)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6 * np.abs(value).max(), err_msg=name)
