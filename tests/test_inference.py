"""Views, blending and argmax: values by hand with a model that compares colours, equivalences with the real one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.inference import (
    CAT_SEG,
    PROTOCOLS,
    WHOLE,
    SlidingWindows,
    buckets,
    compiled,
    encoding,
    labelling,
    pass_programs,
)
from ahs_seg_jax.inference.at_once import view_logits
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.inference.views import shortest_edge_size
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.vocabulary import Vocabulary, tokenizer

COLORS = ("red", "green", "blue")
SMALL = SlidingWindows(shortest=13, longest=29, size=11, window=7, stride=2)
EITHER = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
EITHER_SMALL = pytest.mark.parametrize("protocol", [WHOLE, SMALL], ids=PROTOCOLS)


@dataclasses.dataclass(frozen=True)
class ColorModel:
    """A class called "red" has the logit 20 (share of red - 1/2) + bias at every position of a grid of 6."""

    config: ModelConfig = dataclasses.field(default_factory=lambda: small_config().replace(adaptation="none"))
    grid: int = 6

    def apply(self, variables, *args, method, **options):
        return getattr(self, method)(variables["params"], *args, **options)

    def encode_text(self, params, tokens):
        words = jnp.asarray([[[[tokenizer.encode(color)[1] for color in COLORS]]]])
        return (tokens[..., None] == words).any(axis=2).astype(jnp.float32)

    def encode_image(self, params, images):
        return {"image": resize.bilinear(images / 255, (self.grid, self.grid))}

    def segment(self, params, features, text, *, class_pooling, class_mask):
        share = jnp.einsum("bhwc,tpc->bthw", features["image"], text)
        logits = 20 * (share - 0.5) + params["bias"]
        return jnp.where(class_mask[None, :, None, None], logits, -100.0), {}


PARAMS = {"bias": jnp.zeros(())}


def small_config() -> ModelConfig:
    return architecture.tiny().replace(
        image=architecture.ImageTowerConfig(layers=2, width=32, heads=2, patch_size=8, crop=32, pretrained_grid=4),
        text=architecture.TextTowerConfig(layers=1, width=32, heads=2, context=24),
        embed_dim=16,
        guidance_taps=(0, 1),
        mh_fpn=False,
        dc_hsp=False,
        aggregator=architecture.AggregatorConfig(
            hidden=16,
            layers=1,
            heads=2,
            window=4,
            appearance_guidance=8,
            text_guidance=8,
            decoder=(16, 16),
            decoder_guidance=(8, 8),
            guidance_up=(8, 8),
            pad_len=16,
        ),
    )


def random_params(model: AHSSeg, seed: int) -> dict:
    """Every parameter random, so that nothing is zero or equal by chance."""
    tokens = jnp.asarray(Vocabulary(COLORS).tokens(24))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), tokens)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)


@functools.cache
def real_model() -> tuple[AHSSeg, dict]:
    model = AHSSeg(small_config().replace(adaptation="none"))
    return model, random_params(model, 0)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def padded(model, params, names, multiple=8):
    """Text `[T, p, e]` and mask `[T]` of names, padded to a multiple."""
    return encoding.padded_text(encoding.encode_vocabulary(model, params, Vocabulary(tuple(names))), multiple)


def color_logits(image, names=COLORS, protocol=CAT_SEG):
    model = ColorModel()
    views = protocol.views(image, model.config.image.crop)[None]
    return view_logits(model, PARAMS, views, *padded(model, PARAMS, names))[0]


# ------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (300, 451, (640, 962)),
        (451, 300, (962, 640)),
        (640, 640, (640, 640)),
        (100, 1000, (256, 2560)),
        (3, 5, (640, 1067)),
    ],
)
def test_shortest_edge_size(height, width, expected):
    assert shortest_edge_size(height, width, 640, 2560) == expected


def test_published_windows():
    assert CAT_SEG.corners == [(0, 0), (0, 256), (256, 0), (256, 256)]
    assert CAT_SEG.views_shape(336) == (5, 384, 384, 3)
    assert WHOLE.views_shape(336) == (1, 336, 336, 3)


def test_windows_must_cover_the_square():
    with pytest.raises(ValueError, match="windows of 5 at stride 3 do not cover 12 pixels exactly"):
        SlidingWindows(size=12, window=5, stride=3)


def test_whole_view_is_a_bilinear_resize_without_antialiasing():
    image = photo(61, 43)
    views = WHOLE.views(image, 19)
    assert views.dtype == np.float32
    expected = resize.bilinear(jnp.asarray(image, jnp.float32), (19, 19), axes=(0, 1))
    np.testing.assert_allclose(views[0], expected, atol=1e-3)


def test_window_views_by_their_definition():
    image = photo(17, 31)
    views = SMALL.views(image, 99)
    # 17 -> 13, but 31 * 13/17 = 23.7 -> 24 stays below 29.
    first = np.asarray(Image.fromarray(image).resize((24, 13), Image.Resampling.BILINEAR), np.float32)
    squashed = resize.bilinear(jnp.asarray(first), (11, 11), axes=(0, 1))
    corners = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)]
    assert views.shape == (len(corners) + 1, 7, 7, 3) == SMALL.views_shape(99)
    for view, (y, x) in zip(views[:-1], corners, strict=True):
        np.testing.assert_allclose(view, squashed[y : y + 7, x : x + 7], atol=1e-3)
    # The global view comes from the first resize, not from the squashed square.
    np.testing.assert_allclose(views[-1], resize.bilinear(jnp.asarray(first), (7, 7), axes=(0, 1)), atol=1e-3)


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((5, 7, 3), np.float32), TypeError, "image is float32; pass a NumPy array of dtype uint8"),
        ([[1, 2]], TypeError, "image is list; pass a NumPy array"),
        (np.zeros((5, 7), np.uint8), ValueError, r"image has shape \[5, 7\]; it must be \[H, W, 3\]"),
        (np.zeros((5, 7, 4), np.uint8), ValueError, r"image has shape \[5, 7, 4\]"),
        (np.zeros((0, 7, 3), np.uint8), ValueError, "at least one pixel"),
    ],
)
def test_images_of_another_kind_are_refused(image, error, text):
    for protocol in PROTOCOLS.values():
        with pytest.raises(error, match=text):
            protocol.views(image, 8)


def test_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="unknown protocol 'windows'; choose one of whole, cat_seg"):
        find_protocol("windows")
    assert find_protocol("whole") is WHOLE
    assert find_protocol(SMALL) is SMALL


# ------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize(("count", "expected"), [(1, 8), (8, 8), (9, 16), (171, 192), (847, 1024), (1025, 1280)])
def test_class_buckets(count, expected):
    assert buckets.bucket(count, buckets.CLASS_BUCKETS) == expected


def test_every_class_bucket_is_a_whole_number_of_chunks():
    assert not any(size % labelling.CLASSES_AT_ONCE for size in buckets.CLASS_BUCKETS)


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_text_is_padded_with_the_last_class(monkeypatch, at_once):
    monkeypatch.setattr(encoding, "PROMPTS_AT_ONCE", at_once)
    exact = encoding.encode_vocabulary(ColorModel(), PARAMS, Vocabulary(COLORS))
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


def test_prompts_must_fit_the_model():
    config = ColorModel().config
    model = ColorModel(config.replace(aggregator=dataclasses.replace(config.aggregator, prompts=3)))
    with pytest.raises(ValueError, match=r"gives 2 prompt\(s\) per class but model.aggregator.prompts is 3"):
        encoding.encode_vocabulary(model, PARAMS, Vocabulary(("red",), templates=("a {}", "the {}")))


# ------------------------------------------------------------------------------------------------ blending


@EITHER_SMALL
def test_constant_logits_stay_constant(protocol):
    views = protocol.views_shape(8)[0]
    blended = labelling.probabilities(jnp.full((views, 2, 6, 6), 0.7), (23, 17), protocol)
    assert blended.shape == (2, 23, 17)
    np.testing.assert_allclose(blended, 1 / (1 + np.exp(-0.7)), rtol=1e-6)


def test_overlapping_windows_by_hand():
    windows = SlidingWindows(size=5, window=3, stride=2)  # four windows; row and column 2 lie in two of them
    logit = lambda p: np.log(p / (1 - p))
    views = np.stack([np.full((1, 3, 3), logit(p)) for p in (0.1, 0.3, 0.5, 0.7, 0.6)])
    blended = labelling.probabilities(jnp.asarray(views, jnp.float32), (5, 5), windows)
    top, bottom = [0.1, 0.1, 0.2, 0.3, 0.3], [0.5, 0.5, 0.6, 0.7, 0.7]
    tiled = np.array([top, top, [0.3, 0.3, 0.4, 0.5, 0.5], bottom, bottom])
    np.testing.assert_allclose(blended[0], (tiled + 0.6) / 2, rtol=1e-5)


def test_whole_takes_the_sigmoid_first_and_windows_resize_first():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 4, (2, 3, 5, 5)), jnp.float32)
    up = functools.partial(jax.image.resize, method="bilinear", antialias=False)
    whole = labelling.probabilities(logits[:1], (13, 11), WHOLE)
    np.testing.assert_allclose(whole, up(jax.nn.sigmoid(logits[0]), (3, 13, 11)), atol=1e-6)
    windows = SlidingWindows(size=9, window=9, stride=1)
    both = jax.nn.sigmoid(up(logits, (2, 3, 9, 9))).mean(axis=0)
    blended = labelling.probabilities(logits, (13, 11), windows)
    np.testing.assert_allclose(blended, up(both, (3, 13, 11)), atol=1e-6)


@EITHER_SMALL
@pytest.mark.parametrize(("classes", "size"), [(3, (7, 131)), (8, (37, 5)), (19, (41, 53))])
def test_chunked_argmax_is_the_argmax(protocol, classes, size):
    views = protocol.views_shape(8)[0]
    logits = jnp.asarray(np.random.default_rng(classes).normal(0, 3, (views, classes, 6, 6)), jnp.float32)
    labels = np.asarray(labelling.label_map(logits, size, protocol))
    assert labels.dtype == np.int32
    assert labels.shape == tuple(buckets.bucket(extent, buckets.OUTPUT_BUCKETS) for extent in size)
    expected = labelling.probabilities(logits, size, protocol).argmax(axis=0)
    np.testing.assert_array_equal(labels[: size[0], : size[1]], expected)


def test_the_first_of_equally_probable_classes_wins():
    labels = labelling.label_map(jnp.full((1, 11, 6, 6), -200.0), (5, 7), WHOLE)
    assert (np.asarray(labels) == 0).all()


# ------------------------------------------------------------------------------------------------ with a model


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
    model, params = real_model()
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
    model, params = real_model()
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


def test_merged_rotations_change_nothing():
    model = AHSSeg(small_config())
    params = random_params(model, 1)
    plain, folded = encoding.merged(model, params)
    assert plain.config.adaptation == "none"
    vocabulary = Vocabulary(COLORS)
    expected = encoding.encode_vocabulary(model, params, vocabulary)
    np.testing.assert_allclose(encoding.encode_vocabulary(plain, folded, vocabulary), expected, atol=1e-5)
    assert encoding.merged(plain, folded) == (plain, folded)


def test_listed_blocks_change_nothing():
    model, params = encoding.merged(AHSSeg(small_config()), random_params(AHSSeg(small_config()), 1))
    listed = encoding.listed(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(listed)) == sum(leaf.size for leaf in jax.tree.leaves(params))
    views = photo(32, 32)[None].astype(np.float32)
    expected = pass_programs.encode_image(model, params, views)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        pass_programs.encode_image(model, listed, views),
        expected,
    )
