"""`ahs-seg segment` on small files with the packaged model: results, continuing, failures, settings, plans."""

import dataclasses
import json
import os
import shutil
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from ahs_seg_jax.cli import app, result_formats, segment_settings
from ahs_seg_jax.cli import segment_files as segment
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
    assert [segment_settings.parse_keep(text) for text in ("model", "auto", "all", "64")] == ["model", "auto", None, 64]
    with pytest.raises(ValueError, match="--keep is 'few'; give model, auto, all, or a number of classes"):
        segment_settings.parse_keep("few")


def test_kept_classes_are_a_setting_of_the_results(folder, tmp_path):
    names = (*NAMES, *(f"thing {number}" for number in range(30)))
    settings = dataclasses.replace(SETTINGS, classes=names, keep="auto")
    assert run(folder / "a.png", tmp_path / "out", settings, overlays=False) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["keep"] == "auto"
    with pytest.raises(ValueError, match="holds results with another keep; choose another --output"):
        run(folder / "a.png", tmp_path / "out", dataclasses.replace(settings, keep="model"), overlays=False)


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
    assert run(tmp_path / "in" / "map.tif", tmp_path / "out", settings, annotations=("coco",)) == 0
    labels, names = geotiff.read_geotiff(tmp_path / "out" / "labels" / "map.tif")
    assert names == NAMES
    assert run(tmp_path / "in" / "map.png", tmp_path / "png", settings) == 0
    np.testing.assert_array_equal(read_png(tmp_path / "png" / "labels" / "map.png")[0], labels)
    with Image.open(tmp_path / "out" / "overlays" / "map.png") as picture:
        assert picture.width > 530
    entries = [json.loads((tmp_path / name / "summary.json").read_text())["images"][0] for name in ("out", "png")]
    assert entries[0]["classes"] == entries[1]["classes"]
    capsys.readouterr()
    assert run(tmp_path / "in" / "map.tif", tmp_path / "out", settings, annotations=("coco",)) == 0
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_annotations_of_a_run_are_one_file_that_other_tools_open(folder, tmp_path, capsys):
    output, kinds = tmp_path / "out", ("coco", "coco-objects", "panoptic", "label-studio", "cvat")
    (folder / "deep" / "broken.png").write_bytes(b"")
    assert run(folder, output, annotations=kinds) == 1
    expected = {name: read_png(output / "labels" / f"{name}.png")[0] for name in ("a", "deep/b")}
    for kind in ("coco", "coco_objects"):
        opened = COCO(str(output / f"{kind}.json"))
        assert [image["file_name"] for image in opened.loadImgs([1, 2])] == ["a.png", "deep/b.jpg"]
        assert {a["iscrowd"] for a in opened.loadAnns(opened.getAnnIds())} == {0}
        for image_id, labels in enumerate(expected.values(), 1):
            drawn = np.full(labels.shape, -1)
            for annotation in opened.loadAnns(opened.getAnnIds(image_id)):
                drawn[opened.annToMask(annotation) == 1] = annotation["category_id"] - 1
            np.testing.assert_array_equal(drawn, labels)
    panoptic = json.loads((output / "panoptic.json").read_text())
    assert [a["file_name"] for a in panoptic["annotations"]] == ["a.png", "deep/b.png"]
    assert (output / "panoptic" / "deep" / "b.png").is_file()
    assert len(json.loads((output / "label_studio.json").read_text())) == 2
    assert (output / "cvat.xml").read_text().count("<image ") == 2

    first = (output / "coco.json").read_bytes()
    (output / "parts" / "coco" / "a.json").unlink()
    Image.new("RGB", (41, 37)).save(folder / "0.png")
    capsys.readouterr()
    assert run(folder, output, annotations=kinds) == 1  # goes on: what is missing, and the new image
    assert capsys.readouterr().err.count("done before") == 1
    grown = json.loads((output / "coco.json").read_text())
    assert [image["file_name"] for image in grown["images"]] == ["0.png", "a.png", "deep/b.jpg"]
    assert [a["id"] for a in grown["annotations"]] == list(range(1, 1 + len(grown["annotations"])))
    (folder / "0.png").unlink()
    assert len(first) < len((output / "coco.json").read_bytes())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_of_files_that_are_no_utf_8(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copyfile(folder / "a.png", images / os.fsdecode(b"caf\xe9.png"))  # Latin-1, as old archives have it
    wanted = ("coco", "label-studio", "cvat", "panoptic")
    for _ in range(2):
        assert run(images, tmp_path / "out", annotations=wanted) == 0
    for name in ("coco.json", "panoptic.json", "label_studio.json", "summary.json", "results.jsonl"):
        json.loads((tmp_path / "out" / name).read_text("utf-8"))  # strictly
    content = json.loads((tmp_path / "out" / "coco.json").read_text("utf-8"))
    assert content["images"][0]["file_name"] == "caf\udce9.png"
    xml.etree.ElementTree.parse(tmp_path / "out" / "cvat.xml")


def test_labels_may_begin_at_one(folder, tmp_path):
    settings = dataclasses.replace(SETTINGS, unknown=0.9, first_index=1)
    assert run(folder / "a.png", tmp_path / "one", settings) == 0
    assert run(folder / "a.png", tmp_path / "zero", dataclasses.replace(settings, first_index=0)) == 0
    expected, _ = read_png(tmp_path / "zero" / "labels" / "a.png")
    found, names = read_png(tmp_path / "one" / "labels" / "a.png")
    np.testing.assert_array_equal(found, expected)
    assert names == NAMES
    with Image.open(tmp_path / "one" / "labels" / "a.png") as file:
        np.testing.assert_array_equal(np.asarray(file), expected + 1)
    with pytest.raises(ValueError, match=r"the first index is -1; .* give 0 to 65532"):
        run(folder, tmp_path / "out", dataclasses.replace(SETTINGS, first_index=-1))


def test_polygons_of_a_map_lie_where_it_lies(tmp_path):
    pytest.importorskip("rasterio")
    from rasterio.features import rasterize

    from ahs_seg_jax.segmenter import geotiff
    from tests.support.tiffs import PLACE, write

    image = np.random.default_rng(0).integers(0, 256, (70, 53, 3), np.uint8)
    image[:20] = 255
    write(tmp_path / "map.tif", image, crs="EPSG:32633", transform=PLACE, nodata=255)
    kinds, settings = ("geojson", "coco"), dataclasses.replace(SETTINGS, windows=NativeWindows(), first_index=1)
    assert run(tmp_path / "map.tif", tmp_path / "windows", settings, annotations=kinds) == 0
    assert run(tmp_path / "map.tif", tmp_path / "whole", annotations=kinds) == 0
    by_windows = geotiff.read_geotiff(tmp_path / "windows" / "labels" / "map.tif")[0]
    whole = read_png(tmp_path / "whole" / "labels" / "map.png")[0]
    assert (by_windows[:20] == -1).all()
    for folder, labels in (("windows", by_windows), ("whole", whole)):
        found = json.loads((tmp_path / folder / "geojson" / "map.geojson").read_text())
        shapes = [(feature["geometry"], feature["properties"]["index"]) for feature in found["features"]]
        drawn = rasterize(shapes, (70, 53), fill=255, transform=PLACE).astype(np.int8)
        np.testing.assert_array_equal(drawn, labels)
    assert json.loads((tmp_path / "windows" / "coco.json").read_text())["images"] == []


def test_formats_are_checked_before_the_first_image(folder, tmp_path, monkeypatch):
    assert result_formats.parse_annotations(" coco, yolo,coco,") == ("coco", "yolo")
    with pytest.raises(ValueError, match=r"--annotations names 'yolov8'; give one or more of coco, coco-objects"):
        result_formats.parse_annotations("coco,yolov8")
    with pytest.raises(ValueError, match="Cityscapes has no label 'grass', 'sand', 'red toy'"):
        run(folder, tmp_path / "out", annotations=("cityscapes",))
    monkeypatch.setitem(sys.modules, "rasterio.features", None)
    with pytest.raises(ImportError, match=r"pip install 'ahs_seg_jax\[geo\]'"):
        run(folder, tmp_path / "out", annotations=("yolo",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("windows", [None, NativeWindows(overlap=0)])
def test_maps_of_reflectances(tmp_path, capsys, windows):
    pytest.importorskip("rasterio")
    from ahs_seg_jax.data.pixel_range import Rescale
    from tests.support.images import photo
    from tests.support.tiffs import write

    (tmp_path / "in").mkdir()
    rgb = photo(37, 53).copy()
    dark = (rgb.astype(float) * 3000 / 255).round().astype(np.uint16)
    dark[:5] = 0
    rgb[:5] = 0
    write(tmp_path / "in" / "map.tif", np.dstack([dark[..., ::-1], dark[..., :1] + np.uint16(9)]))
    write(tmp_path / "rgb.tif", rgb, photometric="RGB")
    settings = dataclasses.replace(SETTINGS, windows=windows)
    assert run(tmp_path / "in", tmp_path / "out", settings) == 1
    assert "does not say which are red, green and blue; give --bands" in capsys.readouterr().err
    settings = dataclasses.replace(settings, bands=(3, 2, 1))
    assert run(tmp_path / "in", tmp_path / "out2", settings) == 1
    assert "less than an eighth of the range" in capsys.readouterr().err
    settings = dataclasses.replace(settings, rescale=Rescale(0, 3000))
    assert run(tmp_path / "in", tmp_path / "out3", settings) == 0
    assert "band 3: 0..3000, band 2: 0..3000, band 1: 0..3000 become 0..255" in capsys.readouterr().err
    assert run(tmp_path / "rgb.tif", tmp_path / "rgb", dataclasses.replace(SETTINGS, windows=windows)) == 0
    entries = [json.loads((tmp_path / name / "summary.json").read_text())["images"][0] for name in ("out3", "rgb")]
    assert entries[0]["classes"] == entries[1]["classes"]


def test_results_snap_to_masks_in_files(folder, tmp_path, capsys):
    halves = np.repeat([[1], [2]], [18, 19], axis=0).repeat(41, axis=1).astype(np.uint8)
    (tmp_path / "masks" / "deep").mkdir(parents=True)
    Image.fromarray(halves).save(tmp_path / "masks" / "deep" / "b.png")
    settings = dataclasses.replace(SETTINGS, snap=str(tmp_path / "masks"), classes=("grass",))
    assert run(folder, tmp_path / "out", settings) == 1
    assert "there are no masks for " in (said := capsys.readouterr().err)
    assert "a with one of the suffixes .png, .npy, .json, .geojson" in said
    assert (read_png(tmp_path / "out" / "labels" / "deep" / "b.png")[0] == 0).all()


def test_help_names_every_format():
    said = " ".join(CliRunner().invoke(app.app, ["segment", "--help"], env={"COLUMNS": "200"}).output.split())
    assert all(name in said for name in result_formats.ANNOTATIONS)


@pytest.mark.parametrize("command", ["segment", "compare"])
def test_a_protocol_that_does_not_suit_the_method_is_refused_before_the_first_image(folder, tmp_path, command):
    given = [
        "--classes",
        "grass; sand",
        "--method",
        "naclip",
        "--protocol",
        "cat_seg",
        "--output",
        str(tmp_path / "out"),
    ]
    more = ["--method", "clearclip"] if command == "compare" else []
    done = CliRunner().invoke(app.app, [command, str(folder), *given, *more])
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "the protocol 'cat_seg' squashes the picture and averages sigmoids" in done.output
    assert "failed:" not in done.output
