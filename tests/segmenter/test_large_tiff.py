"""A TIFF into a GeoTIFF, tile by tile, with the packaged model: the result of a call, stopped and continued."""

import numpy as np
import pytest

from ahs_seg_jax.inference import tiles
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import Segmenter, geotiff, large_tiff, tiff_reading
from tests.support.images import photo

rasterio = pytest.importorskip("rasterio")

from tests.support.tiffs import PLACE, write

NAMES = ("grass", "red toy", "sand")
WINDOWS = NativeWindows(overlap=0, global_view=True)


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return Segmenter.from_pretrained("tiny")


def test_it_is_what_a_call_gives(tiny, tmp_path):
    image = photo(70, 600) | 1  # two tiles
    image[:, 590:] = 0
    source = write(tmp_path / "a.tif", image, crs="EPSG:32633", transform=PLACE, nodata=0)
    expected = tiny(image, NAMES, windows=WINDOWS, unknown=["water"])
    found = large_tiff.segment_tiff(tiny, source, tmp_path / "labels.tif", NAMES, WINDOWS, unknown=["water"])
    labels, names = geotiff.read_geotiff(tmp_path / "labels.tif")
    assert names == NAMES
    np.testing.assert_array_equal(labels[:, :590], expected.labels[:, :590])
    assert (labels[:, 590:] == -1).all()
    assert (found["height"], found["width"], found["image"]) == (70, 600, str(source))
    assert found["mean_confidence"] == pytest.approx(expected.confidence.mean(), abs=1e-3)
    assert sum(entry["pixels"] for entry in found["classes"].values()) == 70 * 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "labels.tif", "labels.tif.aux.xml"]


def test_a_stopped_run_continues(tiny, tmp_path, monkeypatch):
    source = write(tmp_path / "a.tif", photo(70, 1100), crs="EPSG:32633", transform=PLACE)
    run = lambda **options: large_tiff.segment_tiff(tiny, source, tmp_path / "labels.tif", NAMES, **options)
    made = []
    label = tiles._label

    def stopping(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[3])
        return label(*args)

    monkeypatch.setattr(tiles, "_label", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(windows=WINDOWS)
    assert not (tmp_path / "labels.tif").exists()
    monkeypatch.setattr(tiles, "_label", lambda *args: made.append(args[3]) or label(*args))
    found = run(windows=WINDOWS)
    assert made == [(0, 0), (0, 512), (0, 1024)]
    expected = tiny(photo(70, 1100), NAMES, windows=WINDOWS)
    np.testing.assert_array_equal(geotiff.read_geotiff(tmp_path / "labels.tif")[0], expected.labels)
    assert found["classes"] == expected.summary()["classes"]
    assert found["mean_confidence"] == pytest.approx(expected.summary()["mean_confidence"], abs=1e-4)


def test_other_words_start_over(tiny, tmp_path, monkeypatch):
    source = write(tmp_path / "a.tif", photo(70, 600))
    made = []
    label = tiles._label
    monkeypatch.setattr(tiles, "_label", lambda *args: made.append(args[3]) or label(*args))
    monkeypatch.setattr(geotiff, "write_categories", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    for names in (NAMES, ("sky", "water"), ("sky", "water")):
        with pytest.raises(KeyboardInterrupt):
            large_tiff.segment_tiff(tiny, source, tmp_path / "labels.tif", names, WINDOWS)
    assert len(made) == 4  # nothing was left for the third


def test_a_gigapixel_is_streamed(tiny, tmp_path):
    """Only what the first tile needs is read, and it is planned to fit."""
    source = tmp_path / "huge.tif"
    with rasterio.open(
        source,
        "w",
        driver="GTiff",
        height=32_768,
        width=32_768,
        count=3,
        dtype="uint8",
        tiled=True,
        sparse_ok=True,
        transform=PLACE,
        crs="EPSG:32633",
    ) as file:
        file.write(np.moveaxis(photo(100, 512), -1, 0), window=rasterio.windows.Window(0, 0, 512, 100))
    windows = NativeWindows(window=512, overlap=0)
    with tiff_reading.open_tiff(source) as raster:
        assert tiny.plan(raster.size, len(NAMES), windows=windows, streamed=True).gigabytes < 2
        first = next(tiny.tiles(raster, NAMES, windows))
    image = np.zeros((512, 512, 3), np.uint8)
    image[:100] = photo(100, 512)
    np.testing.assert_array_equal(first.labels, tiny(image, NAMES, windows=windows).labels)
    with pytest.raises(ValueError, match="save it as a tiled TIFF and segment that with --windows native"):
        tiny(source, NAMES)


def test_what_cannot_be_shown_leaves_nothing_behind(tiny, tmp_path):
    image = np.random.default_rng(0).integers(0, 3000, (37, 41, 4)).astype(np.uint16)
    source = write(tmp_path / "a.tif", image, crs="EPSG:32633", transform=PLACE)
    for bands, words in ((None, "does not say which are red, green and blue"), ((3, 2, 1), "would lose its contrast")):
        with pytest.raises(ValueError, match=words):
            large_tiff.segment_tiff(tiny, source, tmp_path / "labels.tif", NAMES, WINDOWS, bands=bands)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
