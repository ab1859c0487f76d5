"""Views, blending and argmax with a model that compares colours, and equivalences with the real one."""

import numpy as np
import pytest

from ahs_seg_jax.inference import (
    CAT_SEG,
    PROTOCOLS,
    WHOLE,
    SlidingWindows,
    compiled,
    encoding,
    labelling,
)
from ahs_seg_jax.inference.at_once import view_logits
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.color_model import COLORS, PARAMS, ColorModel
from tests.support.images import photo
from tests.support.small import plain_model

SMALL = SlidingWindows(shortest=13, longest=29, size=11, window=7, stride=2)


EITHER = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def padded(model, params, names, multiple=8):
    """Text `[T, p, e]` and mask `[T]` of names, padded to a multiple."""
    return encoding.padded_text(encoding.encode_vocabulary(model, params, Vocabulary(tuple(names))), multiple)


def color_logits(image, names=COLORS, protocol=CAT_SEG):
    model = ColorModel()
    views = protocol.views(image, model.config.image.crop)[None]
    return view_logits(model, PARAMS, views, *padded(model, PARAMS, names))[0]


@EITHER
def test_constant_image_gives_one_class_everywhere(protocol):
    image = np.zeros((47, 89, 3), np.uint8)
    image[..., 1] = 255
    logits = color_logits(image, protocol=protocol)
    np.testing.assert_allclose(
        logits[:, :3], np.broadcast_to([[[[-10.0]], [[10]], [[-10]]]], logits[:, :3].shape), atol=1e-4
    )
    labels = np.asarray(labelling.label_map(logits, (47, 89), protocol))[:47, :89]
    assert (labels == 1).all()


@EITHER
def test_halves_land_where_they_are(protocol):
    image = np.zeros((97, 151, 3), np.uint8)
    image[:, :75, 0], image[:, 75:, 2] = 255, 255
    labels = np.asarray(labelling.label_map(color_logits(image, protocol=protocol), (97, 151), protocol))[:97, :151]
    assert (labels[:, :65] == 0).all()
    assert (labels[:, 86:] == 2).all()


def test_views_of_several_images_are_computed_for_each():
    text, mask = padded(ColorModel(), PARAMS, COLORS)
    views = np.stack([SMALL.views(photo(17, 31, seed), 32) for seed in (0, 1)])
    together = view_logits(ColorModel(), PARAMS, views, text, mask)
    assert together.shape == (2, 10, 8, 6, 6)
    for image in (0, 1):
        for view in (0, 7, 9):
            alone = view_logits(ColorModel(), PARAMS, views[image : image + 1, view : view + 1], text, mask)
            np.testing.assert_allclose(together[image, view], alone[0, 0], atol=1e-5)
    assert float(np.abs(together[0] - together[1]).max()) > 1


@pytest.mark.parametrize(("count", "bucket"), [(5, 8), (19, 24)])
def test_padding_classes_change_nothing(count, bucket):
    """Below and above the 16 classes that the model keeps (`pad_len`)."""
    model, params = plain_model()
    names = [f"thing {index}" for index in range(count)]
    views = WHOLE.views(photo(29, 37), 32)[None]
    results = []
    for multiple in (count, bucket):
        text, mask = padded(model, params, names, multiple)
        results.append(np.asarray(view_logits(model, params, views, text, mask))[0, 0])
    assert (results[1][count:] == -100).all()
    kept = results[0].max(axis=(1, 2)) > -99
    assert kept.sum() == min(count, 16)
    assert results[0][kept].std() > 0.01
    np.testing.assert_allclose(results[0], results[1][:count], atol=1e-4 * np.abs(results[0][kept]).max())


def test_permuted_names_give_permuted_probabilities():
    model, params = plain_model()
    names, order = ("red", "green", "sky", "old oak tree", "blue"), [3, 0, 4, 2, 1]
    views, results = WHOLE.views(photo(29, 37), 32)[None], []
    for chosen in (names, [names[index] for index in order]):
        logits = view_logits(model, params, views, *padded(model, params, chosen))
        results.append(np.asarray(labelling.probabilities(logits[0], (29, 37), WHOLE)))
    assert results[0].shape == (8, 29, 37)
    np.testing.assert_allclose(results[0][order], results[1][:5], atol=1e-5)


@EITHER
def test_a_second_image_and_vocabulary_of_the_same_bucket_trace_nothing(protocol):
    def labels(image, names):
        return labelling.label_map(color_logits(image, names, protocol), image.shape[:2], protocol).block_until_ready()

    labels(photo(67, 71), COLORS)
    before = dict(compiled.traces)
    labels(photo(101, 31), ("blue", "red", "sky", "green"))
    assert dict(compiled.traces) == before
