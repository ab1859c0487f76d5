"""An image through the model at once: halves and constants with a model that compares colours, equivalences with the real one."""

import numpy as np
import pytest

from ahs_seg_jax.inference import compiled, encoding, labelling
from ahs_seg_jax.inference.at_once import cat_seg_probabilities, view_logits, whole_image_probabilities
from ahs_seg_jax.inference.views import PROTOCOLS, Windows, make_views
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.color_model import PARAMS, ColorModel
from tests.support.images import photo
from tests.support.small import plain_model

COLORS = ("red", "green", "blue")
SMALL = Windows(shortest=13, longest=29, size=11, window=7, stride=2)


def color_logits(image, names=COLORS, protocol="cat_seg", **options):
    model = ColorModel()
    encoded = encoding.encode_vocabulary(model, PARAMS, Vocabulary(names))
    views = make_views(image, protocol, model.config.image.crop)[None]
    return view_logits(model, PARAMS, views, encoded.text, encoded.mask, **options)[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_constant_image_gives_one_class_everywhere(protocol):
    image = np.zeros((47, 89, 3), np.uint8)
    image[..., 1] = 255
    logits = color_logits(image, protocol=protocol)
    np.testing.assert_allclose(
        logits[:, :3], np.broadcast_to([[[[-10.0]], [[10]], [[-10]]]], logits[:, :3].shape), atol=1e-4
    )
    labels = np.asarray(labelling.label_map(logits, (47, 89), protocol))[:47, :89]
    assert (labels == 1).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_halves_land_where_they_are(protocol):
    image = np.zeros((97, 151, 3), np.uint8)
    image[:, :75, 0], image[:, 75:, 2] = 255, 255
    labels = np.asarray(labelling.label_map(color_logits(image, protocol=protocol), (97, 151), protocol))[:97, :151]
    assert (labels[:, :65] == 0).all()
    assert (labels[:, 86:] == 2).all()


def test_views_one_by_one_equal_all_at_once():
    encoded = encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(COLORS))
    views = np.stack([make_views(photo(17, 31, seed), "cat_seg", 32, SMALL) for seed in (0, 1)])
    one_by_one, at_once = (
        view_logits(ColorModel(), PARAMS, views, encoded.text, encoded.mask, one_by_one=choice)
        for choice in (True, False)
    )
    assert one_by_one.shape == (2, 10, 8, 6, 6)
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-5)
    assert float(np.abs(one_by_one[0] - one_by_one[1]).max()) > 1


@pytest.mark.parametrize(("count", "bucket"), [(5, 8), (19, 24)])
def test_padding_classes_change_nothing(count, bucket):
    """Below and above the 16 classes that the model keeps (`pad_len`)."""
    model, params = plain_model()
    vocabulary = Vocabulary(tuple(f"thing {index}" for index in range(count)))
    views = make_views(photo(29, 37), "whole", 32)[None]
    results = []
    for pad_to in (count, bucket):
        encoded = encoding.encode_vocabulary(model, params, vocabulary, pad_to)
        results.append(np.asarray(view_logits(model, params, views, encoded.text, encoded.mask))[0, 0])
    assert (results[1][count:] == -100).all()
    kept = results[0].max(axis=(1, 2)) > -99
    assert kept.sum() == min(count, 16)
    assert results[0][kept].std() > 0.01
    np.testing.assert_allclose(results[0], results[1][:count], atol=1e-4 * np.abs(results[0][kept]).max())


def test_permuted_names_give_permuted_labels():
    model, params = plain_model()
    names, order = ("red", "green", "sky", "old oak tree", "blue"), [3, 0, 4, 2, 1]
    image, results = photo(29, 37), []
    for chosen in (names, [names[index] for index in order]):
        encoded = encoding.encode_vocabulary(model, params, Vocabulary(tuple(chosen)))
        results.append(np.asarray(whole_image_probabilities(model, params, image, encoded)))
    assert results[0].shape == (5, 29, 37)
    np.testing.assert_allclose(results[0][order], results[1], atol=1e-5)


def test_cat_seg_probabilities_agree_with_the_label_map():
    image = photo(43, 61)
    encoded = encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(COLORS))
    blended = cat_seg_probabilities(ColorModel(), PARAMS, image, encoded)
    assert blended.shape == (3, 43, 61)
    labels = np.asarray(labelling.label_map(color_logits(image), (43, 61), "cat_seg"))[:43, :61]
    np.testing.assert_array_equal(labels, blended.argmax(axis=0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_second_image_and_vocabulary_of_the_same_bucket_trace_nothing(protocol):
    def labels(image, names):
        return labelling.label_map(color_logits(image, names, protocol), image.shape[:2], protocol).block_until_ready()

    labels(photo(67, 71), COLORS)
    before = dict(compiled.traces)
    labels(photo(101, 31), ("blue", "red", "sky", "green"))
    assert dict(compiled.traces) == before
