"""The segmenter: shapes, cached text, buckets, other orders of names, bad input. A small model with random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import inference
from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.checkpoints.convert import Pretrained
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.vocabulary import Vocabulary

NAMES = ("sky", "road", "old oak tree", "car", "cat, kitten")


def small_config() -> architecture.ModelConfig:
    tiny = architecture.tiny()
    return tiny.replace(
        image=dataclasses.replace(tiny.image, layers=2, width=32, heads=2, crop=32, pretrained_grid=4),
        text=dataclasses.replace(tiny.text, layers=1, width=32, heads=2),
        embed_dim=16,
        guidance_taps=(0, 1),
        mh_fpn=False,
        dc_hsp=False,
        aggregator=dataclasses.replace(tiny.aggregator, hidden=16, heads=2, decoder=(16, 16), decoder_guidance=(8, 8)),
    )


def random_params(config: architecture.ModelConfig) -> dict:
    images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((2, 1, 16), jnp.int32)
    shapes = jax.eval_shape(AHSSeg(config).init, jax.random.key(0), images, tokens)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(small_config(), random_params(small_config()))


def test_rotations_are_merged_at_load(segmenter):
    assert small_config().adaptation == "ha_hem"
    assert segmenter.model.config.adaptation == "none"
    assert "adaptation" not in segmenter.params["clip"]


def test_logits_follow_the_names(segmenter):
    logits = segmenter.logits(photo(41, 67), NAMES)
    assert logits.dtype == np.float32
    assert logits.shape == (5, 16, 16)
    assert logits.std() > 0.1
    order = [3, 1, 4, 0, 2]
    permuted = segmenter.logits(photo(41, 67), [NAMES[index] for index in order])
    np.testing.assert_allclose(permuted, logits[order], atol=1e-4 * np.abs(logits).max())


def test_prediction_has_the_size_of_the_image(segmenter):
    labels = segmenter.predict(photo(41, 67), NAMES, protocol="whole")
    assert labels.dtype == np.int32
    assert labels.shape == (41, 67)
    encoded = inference.encode_vocabulary(segmenter.model, segmenter.params, Vocabulary(NAMES))
    probabilities = np.asarray(
        inference.whole_image_probabilities(segmenter.model, segmenter.params, photo(41, 67), encoded)
    )
    chosen = np.take_along_axis(probabilities, labels[None], axis=0)[0]
    np.testing.assert_allclose(chosen, probabilities.max(axis=0), atol=1e-6)  # ties up to rounding


def test_windows_by_default(segmenter):
    labels = segmenter.predict(photo(37, 53), NAMES)
    assert labels.shape == (37, 53)
    np.testing.assert_array_equal(labels, segmenter.predict(photo(37, 53), NAMES, protocol="cat_seg"))


def test_text_is_encoded_once_for_each_vocabulary(segmenter, monkeypatch):
    counted = []
    encode = inference.encode_vocabulary
    monkeypatch.setattr(inference, "encode_vocabulary", lambda *args: counted.append(args[2]) or encode(*args))
    image = photo(31, 29)
    vocabularies = [("river", "sea"), ("sea", "river"), Vocabulary(("river", "sea"), templates=("a {}",))]
    first = [segmenter.logits(image, names) for names in vocabularies]
    again = [segmenter.logits(image, names) for names in vocabularies]
    assert len(counted) == 3
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.abs(first[0] - first[2]).max() > 1e-4  # other templates, other embeddings
    segmenter.logits(image, ["river", "sea"])
    assert len(counted) == 3


def test_old_vocabularies_are_forgotten(segmenter, monkeypatch):
    monkeypatch.setattr("ahs_seg_jax.segmenter.CACHED_VOCABULARIES", 2)
    for name in ("one", "two", "three"):
        segmenter.logits(photo(31, 29), [name])
    assert [vocabulary.names for vocabulary in segmenter._encoded] == [("two",), ("three",)]


def test_a_second_image_and_other_names_of_the_bucket_trace_nothing(segmenter):
    segmenter.predict(photo(41, 67), NAMES, protocol="whole")
    before = dict(inference.traces)
    segmenter.predict(photo(127, 3), ["a", "b", "c"], protocol="whole")
    assert dict(inference.traces) == before


@pytest.mark.parametrize(
    ("image", "names", "error", "text"),
    [
        (photo(5, 7).astype(np.float32), NAMES, TypeError, "image is float32"),
        (photo(5, 7)[..., :2], NAMES, ValueError, r"image has shape \[5, 7, 2\]"),
        (photo(5, 7), [], ValueError, "there are no class names"),
        (photo(5, 7), ["sky", "Sky"], ValueError, "'Sky', repeats name 1"),
        (photo(5, 7), "sky", TypeError, r"names is the text 'sky'; pass a list of class names, such as \['sky'\]"),
        (photo(5, 7), ["very " * 40 + "long name"], ValueError, "the text context holds 32 tokens"),
    ],
)
def test_bad_input_is_refused(segmenter, image, names, error, text):
    with pytest.raises(error, match=text):
        segmenter.predict(image, names)


def test_unknown_protocol_is_refused(segmenter):
    with pytest.raises(ValueError, match="unknown protocol 'window'; choose one of whole, cat_seg"):
        segmenter.predict(photo(5, 7), NAMES, protocol="window")


def test_class_pooling_must_divide_the_grid(segmenter):
    with pytest.raises(ValueError, match="class_pooling is 3, which does not divide"):
        segmenter.logits(photo(5, 7), NAMES, class_pooling=3)


def test_from_pretrained_reads_a_converted_directory(segmenter, tmp_path):
    config, params = small_config(), random_params(small_config())
    manifest = {"format_version": 1, "config": dataclasses.asdict(config)}
    pretrained.save_converted(tmp_path / "model", Pretrained(config, params, manifest))
    loaded = Segmenter.from_pretrained(tmp_path / "model")
    assert loaded.model == segmenter.model
    assert loaded.templates == segmenter.templates == ("A photo of a {} in the scene",)
    np.testing.assert_array_equal(loaded.logits(photo(41, 67), NAMES), segmenter.logits(photo(41, 67), NAMES))


def test_the_templates_of_the_training_are_used(segmenter, monkeypatch):
    manifest = {"training": {"vocabulary": {"names": ["sky"], "templates": ["{}"]}}}
    found = Pretrained(small_config(), random_params(small_config()), manifest)
    monkeypatch.setattr(pretrained, "load_pretrained", lambda path: found)
    loaded = Segmenter.from_pretrained("runs/tiny")
    expected = segmenter.logits(photo(41, 67), Vocabulary(NAMES, templates=("{}",)))
    np.testing.assert_array_equal(loaded.logits(photo(41, 67), NAMES), expected)


def test_a_bare_clip_is_refused(monkeypatch):
    clip = Pretrained(small_config(), {"clip": {}}, {})
    monkeypatch.setattr(pretrained, "load_pretrained", lambda path: clip)
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt holds CLIP's weights only; a segmenter needs a trained"):
        Segmenter.from_pretrained("ViT-B-16.pt")
