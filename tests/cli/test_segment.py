"""`ahs-seg segment` on small files with the packaged model: results, continuing, failures, settings, plans."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import segment_files as segment
from ahs_seg_jax.cli import segment_settings
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import read_png
from ahs_seg_jax.segmenter.words import parse_unknown

NAMES = ("grass", "sand", "red toy")
SETTINGS = segment.Settings(NAMES, "tiny", None, "none", "model", None)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/b.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (37, 41, 3), np.uint8)).save(path)
    return tmp_path / "in"


def run(folder, output, settings=SETTINGS, **options):
    return segment.run([str(folder)], output, settings, **options)


def test_files_folders_and_patterns(folder):
    jobs = segment.find_images([str(folder), str(folder / "*.png"), str(folder / "deep" / "b.jpg"), "missing.png"])
    assert [str(job.name) for job in jobs] == ["a", "deep/b", "missing"]
    with pytest.raises(ValueError, match="nothing matches"):
        segment.find_images([str(folder / "*.gif")])
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no images"):
        segment.find_images([str(folder / "none")])


def test_results_and_continuing(folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(folder, output) == 0
    labels, names = read_png(output / "labels" / "deep" / "b.png")
    assert (labels.shape, names) == ((37, 41), NAMES)
    with Image.open(output / "overlays" / "a.png") as picture:
        assert picture.width > 41
    summary = json.loads((output / "summary.json").read_text())
    assert summary["finished"]
    assert [entry["name"] for entry in summary["images"]] == ["a", "deep/b"]
    assert summary["settings"]["classes"] == list(NAMES)
    shares = [found["share"] for found in summary["images"][0]["classes"].values()]
    assert sum(shares) == pytest.approx(1, abs=1e-4)

    capsys.readouterr()
    (output / "labels" / "a.png").unlink()
    with (output / "results.jsonl").open("a") as file:
        file.write('{"name": "cut o')
    assert run(folder, output) == 0
    said = capsys.readouterr().err
    assert said.count("done before") == 1
    assert (output / "labels" / "a.png").is_file()


def test_heat_maps_of_every_name(folder, tmp_path, capsys):
    settings = segment.Settings(("grass", "red/toy, apple", "\u6c34"), "tiny", None, "none", "model", None)
    assert run(folder, tmp_path / "out", settings) == 0
    assert run(folder, tmp_path / "out", settings, heat_maps=True) == 0  # what is missing is made
    found = tmp_path / "out" / "heat_maps" / "deep" / "b"
    assert sorted(path.name for path in found.iterdir()) == ["000_grass.png", "001_red_toy.png", "002_\u6c34.png"]
    with Image.open(found / "000_grass.png") as picture:
        assert picture.height > 37  # the image below its scale
    capsys.readouterr()
    assert run(folder, tmp_path / "out", settings, heat_maps=True) == 0
    assert capsys.readouterr().err.count("done before") == 2


def test_other_settings_are_refused(folder, tmp_path, capsys):
    run(folder, tmp_path / "out", overlays=False)
    assert "means nothing" not in capsys.readouterr().err
    assert not (tmp_path / "out" / "overlays").exists()
    other = segment.Settings(("cat",), "tiny", None, "none", None, 3.0)
    with pytest.raises(ValueError, match="holds results with another classes, keep; choose another --output"):
        run(folder, tmp_path / "out", other)
    assert run(folder, tmp_path / "out", other, again=True) == 0
    assert "what it says about 'cat' means nothing: give --model" in capsys.readouterr().err
    assert read_png(tmp_path / "out" / "labels" / "a.png")[1] == ("cat",)


def test_one_failure_does_not_stop_the_others(folder, tmp_path, capsys):
    (folder / "0.png").write_bytes(b"")
    Image.new("RGB", (5, 7)).save(folder / "a.bmp")
    assert run(folder, tmp_path / "out", overlays=False) == 1
    said = capsys.readouterr().err
    assert "2 of 4 images" in said
    assert "0.png: the file is empty" in said.splitlines()[-2]
    assert "the same name as those of" in said.splitlines()[-1]
    failed = json.loads((tmp_path / "out" / "summary.json").read_text())["failed"]
    assert len(failed) == 2


def test_what_can_be_mended_is_said_before_the_first_image(folder, tmp_path):
    for classes, text in ((("sky", "Sky"), "repeats name 1"), (("very " * 40,), "text context holds 32 tokens")):
        with pytest.raises(ValueError, match=text):
            run(folder, tmp_path / "out", segment.Settings(classes, "tiny", None, "none", "model", None))
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"results cannot be written to .*taken"):
        run(folder, tmp_path / "taken")


def test_plans_run_nothing(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out", only_plan=True) == 0
    assert "41 x 37 pixels, 1 view(s)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_words_for_the_unknown():
    assert parse_unknown("none") == "none"
    assert parse_unknown("0.25") == 0.25
    assert parse_unknown("wall; blue sky") == ("wall", "blue sky")
    assert [segment_settings.parse_keep(text) for text in ("model", "all", "64")] == ["model", None, 64]


def test_options_of_windows():
    assert segment_settings.parse_windows("", blend="smooth", window=None, global_view=False) is None
    found = segment_settings.parse_windows(
        "native", blend="mean", window=96, stride=None, overlap=0.25, global_view=True
    )
    assert found == NativeWindows(window=96, overlap=0.25, blend="mean", global_view=True)
    with pytest.raises(ValueError, match=r"--stride, --global-view needs --windows native"):
        segment_settings.parse_windows("", blend="smooth", stride=40, global_view=True)
    with pytest.raises(ValueError, match=r"--windows is 'big'; give native, or leave it out"):
        segment_settings.parse_windows("big", blend="smooth")


def test_windows_and_georeferenced_files(tmp_path, capsys):
    geotiff = pytest.importorskip("ahs_seg_jax.segmenter.geotiff")
    pytest.importorskip("rasterio")
    from tests.support.tiffs import PLACE, write

    image = np.random.default_rng(0).integers(0, 256, (70, 530, 3), np.uint8)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "map.tif", image, crs="EPSG:32633", transform=PLACE)
    Image.fromarray(image).save(tmp_path / "in" / "map.png")
    settings = dataclasses.replace(SETTINGS, windows=NativeWindows(overlap=0))
    assert run(tmp_path / "in", tmp_path / "plan", settings, only_plan=True) == 0
    assert "530 x 70 pixels, 18 view(s), 16 at once, strips of 1024 pixels" in capsys.readouterr().out
    assert run(tmp_path / "in" / "map.tif", tmp_path / "out", settings, coco=True) == 0
    labels, names = geotiff.read_geotiff(tmp_path / "out" / "labels" / "map.tif")
    assert names == NAMES
    assert run(tmp_path / "in" / "map.png", tmp_path / "png", settings) == 0
    np.testing.assert_array_equal(read_png(tmp_path / "png" / "labels" / "map.png")[0], labels)
    with Image.open(tmp_path / "out" / "overlays" / "map.png") as picture:
        assert picture.width > 530
    entries = [json.loads((tmp_path / name / "summary.json").read_text())["images"][0] for name in ("out", "png")]
    assert entries[0]["classes"] == entries[1]["classes"]
    capsys.readouterr()
    assert run(tmp_path / "in" / "map.tif", tmp_path / "out", settings, coco=True) == 0
    assert "done before" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds results with another windows; choose another --output"):
        run(tmp_path / "in" / "map.tif", tmp_path / "out")


def test_without_rasterio_nothing_starts(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    settings = dataclasses.replace(SETTINGS, windows=NativeWindows())
    with pytest.raises(ImportError, match=r"pip install 'ahs_seg_jax\[geo\]'"):
        run(tmp_path / "a.tif", tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "a.tif", tmp_path / "out") == 0
