"""Tiles of images through windows, with a model that sees colours, so that every expectation can be written down."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import progress
from ahs_seg_jax.inference import compiled
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.tiles import ArrayRaster, assembled, label_tiles, overview
from ahs_seg_jax.inference.views import squash
from tests.support.images import photo, resized

CROP, SIDE, CLASSES = 16, 8, 19  # 19 classes: more than one chunk


def on_device(logits: np.ndarray) -> ViewLogits:
    """Logits `[k, t, g, g]` as the passes give them, in an array that holds another view and another class too."""
    views, classes = logits.shape[:2]
    values = jnp.pad(jnp.asarray(logits), ((1, 0), (1, 0), (0, 0), (0, 0)), constant_values=99.0)
    places = np.tile(np.arange(1, classes + 1, dtype=np.int32), (views, 1))
    return ViewLogits(values, np.arange(1, views + 1, dtype=np.int32), places)


def colours(views: np.ndarray) -> np.ndarray:
    """Logits `[k, t, g, g]`: a cell's mean colour times a fixed matrix."""
    assert views.shape[1:] == (CROP, CROP, 3)
    matrix = np.random.default_rng(0).normal(0, 2, (3, CLASSES)).astype(np.float32)
    cells = views.reshape(len(views), SIDE, CROP // SIDE, SIDE, CROP // SIDE, 3).mean((2, 4)) / 255 - 0.5
    return np.einsum("khwc,ct->kthw", cells, matrix)


def places(views: np.ndarray) -> np.ndarray:
    """Logits that differ from place to place of a window, whatever it shows."""
    pattern = np.random.default_rng(1).normal(0, 2, (CLASSES, SIDE, SIDE)).astype(np.float32)
    return np.repeat(pattern[None], len(views), 0)


def run(image, windows, segment=colours, **options):
    on_views = lambda views: on_device(segment(views))
    tiles = label_tiles(on_views, ArrayRaster(image), windows, CROP, probabilities=True, **options)
    return assembled(tiles, image.shape[:2])


def by_hand(image, windows, segment):
    """The same, window by window, at once."""
    grid = windows.grid(image.shape[:2], CROP)
    height, width = image.shape[:2]
    total = np.zeros((CLASSES, height, width))
    for r, y in enumerate(grid.rows.starts):
        for c, x in enumerate(grid.columns.starts):
            part = image[y : y + grid.rows.length, x : x + grid.columns.length]
            logits = segment(squash(part, CROP)[None])
            values = resized(logits[0], part.shape[:2])
            weights = grid.rows.weights(r)[:, None] * grid.columns.weights(c)[None]
            total[:, y : y + grid.rows.length, x : x + grid.columns.length] += values * weights
    if windows.global_view:
        logits = segment(squash(image, CROP)[None])
        total = (total + resized(logits[0], (height, width))) / 2
    return total


@pytest.mark.parametrize(
    "windows",
    [
        NativeWindows(),
        NativeWindows(window=23, stride=11, blend="mean"),
        NativeWindows(window=13, overlap=0.0, global_view=True),
        NativeWindows(window=200, global_view=True),
    ],
    ids=["default", "mean", "global view", "larger than the image"],
)
def test_tiles_are_the_blended_windows(windows):
    image = photo(53, 67)
    labels, confidence, probabilities = run(image, windows, tile=32)
    expected = by_hand(image, windows, colours)
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)
    np.testing.assert_allclose(confidence, expected.max(0), atol=2e-6)
    ordered = np.sort(expected, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], expected.argmax(0)[clear])


@pytest.mark.parametrize("shape", [(53, 67), (1, 401), (1, 1)])
def test_neither_tiles_nor_batches_nor_strips_change_anything(shape):
    image, windows = photo(*shape), NativeWindows(window=19, stride=12, global_view=True)
    expected = run(image, windows, tile=64)
    for options in ({"tile": 16}, {"tile": 16, "columns": 2, "at_once": 4}, {"tile": 32, "columns": 1, "at_once": 3}):
        found = run(image, windows, **options)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("blend", ["smooth", "mean"])
def test_a_constant_image_is_constant(blend):
    image = np.full((61, 47, 3), (90, 130, 50), np.uint8)
    _, _, probabilities = run(image, NativeWindows(blend=blend, global_view=True), tile=32)
    expected = 1 / (1 + np.exp(-colours(np.full((1, CROP, CROP, 3), (90, 130, 50), np.float32))[0, :, 0, 0]))
    np.testing.assert_allclose(probabilities, np.broadcast_to(expected[:, None, None], probabilities.shape), atol=1e-6)


def test_windows_without_overlap_repeat_what_a_window_sees():
    image = photo(3 * CROP, 2 * CROP)
    _, _, probabilities = run(image, NativeWindows(overlap=0), segment=places, tile=32)
    np.testing.assert_allclose(probabilities, np.tile(probabilities[:, :CROP, :CROP], (1, 3, 2)), atol=1e-6)


def test_a_window_is_computed_once_in_a_strip_and_dropped_when_it_is_done():
    seen = []
    segment = lambda views: seen.append(len(views)) or colours(views)
    on_views = lambda views: on_device(segment(views))
    windows = NativeWindows(window=16, stride=8)
    image = photo(160, 64)
    run(image, windows, segment=segment, tile=32)
    assert sum(seen) == windows.grid((160, 64), CROP).count == 19 * 7
    seen.clear()
    done = {(y, x) for y in (0, 32, 64, 96) for x in (0, 32)}
    tiles = list(label_tiles(on_views, ArrayRaster(image), windows, CROP, tile=32, done=done))
    assert [(tile.y, tile.x) for tile in tiles] == [(128, 0), (128, 32)]
    assert sum(seen) == 4 * 7  # rows of windows that start at 120 .. 144


def test_tiles_after_those_of_an_earlier_run():
    image, windows = photo(70, 75), NativeWindows(window=19)
    segment = lambda views: on_device(colours(views))
    make = lambda **options: list(label_tiles(segment, ArrayRaster(image), windows, CROP, tile=32, **options))
    everything = make(columns=2)
    places = [(tile.y, tile.x) for tile in everything]
    assert len(set(places)) == 9
    for number in (0, 1, 3, 5, 8, 9):
        rest = make(done=set(places[:number]))  # with other strips
        assert {(tile.y, tile.x) for tile in rest} == set(places[number:])
        for tile in rest:
            np.testing.assert_array_equal(tile.labels, everything[places.index((tile.y, tile.x))].labels)


def test_another_size_compiles_nothing():
    run(photo(53, 67), NativeWindows(), tile=32)
    before = dict(compiled.traces)
    run(photo(41, 131), NativeWindows(), tile=32)
    run(photo(5, 3), NativeWindows(), tile=32)
    assert dict(compiled.traces) == before


def test_an_overview_is_means_of_squares():
    image = photo(7, 5)
    np.testing.assert_array_equal(overview(ArrayRaster(image), 7), image)
    reduced = overview(ArrayRaster(image), 3)
    assert reduced.shape == (3, 2, 3)
    np.testing.assert_allclose(reduced[0, 0], image[:3, :3].mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(reduced[2, 1], image[6:, 3:].mean((0, 1)), atol=0.5)


def test_progress_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "ahs_seg_jax"):
        run(photo(20, 40), NativeWindows(window=20, overlap=0), tile=64)
    assert caplog.messages[0] == "segmented 1 of 2 windows"
    assert caplog.messages[1].startswith("segmented 2 of 2 windows, ")
