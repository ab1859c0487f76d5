"""Whatever happens to one image, the others are done, it is named with its cause, and nothing of it stays."""

import errno
import io
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import compare
from ahs_seg_jax.cli import segment_files as segment
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import Segmentation, Segmenter
from ahs_seg_jax.storage import writing

SETTINGS = segment.Settings(("grass", "sand"), "tiny", None, "none", "model", None)
COMPARED = [compare.Shown("tiny", ("grass", "sand")), compare.Shown("tiny", ("sand", "water"))]


def noise(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (37, 41, 3), np.uint8))


def encoded(kind, **options):
    stream = io.BytesIO()
    noise().save(stream, kind, **options)
    return stream.getvalue()


def turned(data, place, value=0xFF):
    return data[:place] + bytes([data[place] ^ value]) + data[place + 1 :]


def damaged():
    """Name -> contents of files that are no images, or damaged ones."""
    png, jpeg, webp = encoded("PNG"), encoded("JPEG"), encoded("WEBP")
    tiff, gif, bmp = encoded("TIFF", compression="tiff_lzw"), encoded("GIF"), encoded("BMP")
    files = {"empty.png": b"", "text.jpg": b"no image", "zeros.png": bytes(1000)}
    for number, share in enumerate((0.1, 0.5, 0.9)):
        for name, data in (("p.png", png), ("j.jpg", jpeg), ("w.webp", webp), ("t.tif", tiff), ("b.bmp", bmp)):
            files[f"cut{number}_{name}"] = data[: int(len(data) * share)]
    files |= {"checksum.png": turned(png, 20), "chunk.png": turned(png, 37)}
    files |= {"header.bmp": turned(bmp, 15), "table.gif.png": turned(gif, 10), "directory.tif": turned(tiff, 4)}
    files |= {"qoi.jpg": b"qoif" + (37).to_bytes(4) + (41).to_bytes(4) + b"\x03\x00" + b"\xff\x00"}
    files |= {"ppm.jpg": b"P6 99 99 255\n12", "ico.png": b"\0\0\1\0\1\0" + bytes(20), "icns.png": b"icns" + bytes(30)}
    files |= {"eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "dds.png": b"DDS " + bytes(140)}
    if "AVIF" in Image.registered_extensions().values():
        avif = encoded("AVIF")
        files |= {"avif.jpg": avif[: len(avif) // 2], "avif_whole.jpg": avif[:-1]}
    return files


def put(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def hidden(folder):
    return [path for path in folder.rglob(".*")]


def test_damaged_files_of_every_kind_between_good_ones(tmp_path, capsys):
    files = damaged()
    folder = put(tmp_path / "in", files | {"0_good.png": encoded("PNG"), "z_good.png": encoded("PNG")})
    out = tmp_path / "out"
    jobs = [str(path) for path in sorted(folder.iterdir())]
    assert segment.run(jobs, out, SETTINGS, annotations=("coco",)) == 1
    said = capsys.readouterr().err.splitlines()
    summary = json.loads((out / "summary.json").read_text())
    assert [entry["name"] for entry in summary["images"]] == ["0_good", "z_good"]
    assert {os.path.basename(entry["image"]) for entry in summary["failed"]} == set(files)
    for entry in summary["failed"]:
        name = os.path.basename(entry["image"])
        assert entry["reason"].count("\n") == 0
        assert name in entry["reason"], entry  # the cause names the file
        assert any(line.startswith("failed: ") and name in line for line in said)
    kept = {path.name for path in out.rglob("*") if path.is_file()}
    of_the_run = {"summary.json", "results.jsonl", "coco.json"}
    assert kept == {f"{n}_good{s}" for n in "0z" for s in (".png", ".json")} | of_the_run
    assert segment.run(jobs, out, SETTINGS, only_plan=True) in (0, 1)


def test_compare_goes_on_too(tmp_path, capsys):
    files = damaged()
    folder = put(tmp_path / "in", files | {"0_good.png": encoded("PNG"), "z_good.png": encoded("PNG")})
    assert compare.run([str(path) for path in sorted(folder.iterdir())], COMPARED, tmp_path / "out", None, None) == 1
    said = capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["0_good.png", "z_good.png"]
    assert f"2 of {len(files) + 2} images in" in said
    assert said.count("\nfailed: ") == len(files)


def test_compare_writes_no_two_pictures_under_one_name(tmp_path, capsys):
    folder = put(tmp_path / "in", {"a.png": encoded("PNG"), "a.jpg": encoded("JPEG"), "a.v2.png": encoded("PNG")})
    given = [str(folder / name) for name in ("a.png", "a.jpg", "a.v2.png")]
    assert compare.run(given, COMPARED, tmp_path / "out", None, None) == 1
    assert "the same name as that of" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a.v2.png"]


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ERRORS = [
    (MemoryError(), "there is not enough memory (MemoryError); give a lower --memory-gb"),
    (MemoryError("Unable to allocate 9 GiB"), "there is not enough memory (Unable to allocate 9 GiB); give a lower"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"), "there is not enough memory (RESOURCE_EX"),
    (full(), "its results cannot be written ([Errno 28] No space left on device); make room"),
    (AttributeError("'NoneType' object has no attribute 'to_wkt'"), "AttributeError: 'NoneType' object has no"),
    (KeyError("x"), "KeyError: 'x'"),
    (IndexError(), "IndexError"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (ValueError("wrong size\nsecond line"), "wrong size"),
    (ValueError(), "ValueError"),
    (AssertionError(), "AssertionError"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("stage", ["while it is segmented", "while it is written"])
def test_any_error_of_one_image_fails_that_image(tmp_path, monkeypatch, capsys, error, text, stage):
    folder = put(tmp_path / "in", {f"{name}.png": encoded("PNG") for name in "abc"})
    call, overlay = Segmenter.__call__, Segmentation.overlay
    turns = iter("abc")  # images reach the model one after the other, in their order

    def failing_call(self, image, *others, **options):
        if stage == "while it is segmented" and next(turns) == "b":
            raise error
        return call(self, image, *others, **options)

    def failing_overlay(self, *others, **options):
        if stage == "while it is written" and self.source.endswith("b.png"):
            raise error
        return overlay(self, *others, **options)

    monkeypatch.setattr(Segmenter, "__call__", failing_call)
    monkeypatch.setattr(Segmentation, "overlay", failing_overlay)
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS, annotations=("coco",)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-2].startswith("2 of 3 images in ")
    assert said[-1].startswith(f"failed: {folder / 'b.png'}: {text}")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["name"] for entry in summary["images"]] == ["a", "c"]
    assert not [path for path in (tmp_path / "out").rglob("*b*") if path.stem == "b"]
    assert not hidden(tmp_path / "out")
    monkeypatch.undo()
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS, annotations=("coco",)) == 0  # only b is done now
    assert capsys.readouterr().err.count("done before") == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_failure_of_an_image(tmp_path, monkeypatch, stop):
    folder = put(tmp_path / "in", {"a.png": encoded("PNG"), "b.png": encoded("PNG")})

    def stopped(self, *_, **__):
        raise stop

    monkeypatch.setattr(Segmentation, "overlay", stopped)
    with pytest.raises(stop):
        segment.run([str(folder)], tmp_path / "out", SETTINGS)
    assert not hidden(tmp_path / "out")
    assert not list((tmp_path / "out").glob("labels/*"))
    monkeypatch.setattr(Segmenter, "__call__", stopped)
    with pytest.raises(stop):
        compare.run([str(folder)], COMPARED, tmp_path / "compared", None, None)


def test_results_of_an_earlier_file_do_not_stand_for_a_damaged_one(tmp_path):
    folder = put(tmp_path / "in", {"a.png": encoded("PNG"), "b.png": encoded("PNG")})
    out = tmp_path / "out"
    assert segment.run([str(folder)], out, SETTINGS, heat_maps=True) == 0
    (folder / "b.png").write_bytes(b"damaged")
    for _ in range(2):
        assert segment.run([str(folder)], out, SETTINGS, heat_maps=True) == 1
        summary = json.loads((out / "summary.json").read_text())
        assert [entry["name"] for entry in summary["images"]] == ["a"]
        assert [os.path.basename(entry["image"]) for entry in summary["failed"]] == ["b.png"]
        assert not list(out.rglob("b.png"))
        assert not list(out.rglob("heat_maps/b"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"settings": 7}', '{"settings": null}', "{}", "[" * 10**5]
)
def test_a_damaged_summary_is_named(tmp_path, text):
    folder = put(tmp_path / "in", {"a.png": encoded("PNG")})
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS) == 0
    (tmp_path / "out" / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"summary\.json is damaged \(.*choose another --output, or start over with"):
        segment.run([str(folder)], tmp_path / "out", SETTINGS)
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS, again=True) == 0


@pytest.mark.parametrize(
    "line", [b"{", b"7", b"null", b"[]", b"{}", b'{"name": 3}', b'{"name": "a"}', b"\xff\xfe", b"[" * 10**5]
)
def test_damaged_lines_of_results_are_done_again(tmp_path, capsys, line):
    folder = put(tmp_path / "in", {"a.png": encoded("PNG")})
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS) == 0
    (tmp_path / "out" / "results.jsonl").write_bytes(line + b"\n")
    capsys.readouterr()
    assert segment.run([str(folder)], tmp_path / "out", SETTINGS) == 0
    assert "done before" not in capsys.readouterr().err


def test_tiffs_in_windows_fail_one_by_one_too(tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    folder = put(tmp_path / "in", {"bad.tif": b"II*\0 no", "cut.tif": encoded("TIFF")[:2000]})
    points = [rasterio.control.GroundControlPoint(row, col, col / 7, row / 3) for row, col in ((0, 0), (0, 9), (9, 0))]
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 3, "dtype": "uint8"}
    with rasterio.open(folder / "points.tif", "w", gcps=points, crs=rasterio.crs.CRS(), **profile) as file:
        file.write(np.full((3, 20, 30), 9, np.uint8))
    settings = segment.Settings(("grass", "sand"), "tiny", None, "none", "model", None, NativeWindows())
    assert segment.run([str(folder)], tmp_path / "out", settings) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-3].startswith("1 of 3 images in ")
    assert "bad.tif is not a TIFF" in said[-2]
    assert "cut.tif is " in said[-1]
    assert (tmp_path / "out" / "labels" / "points.tif").is_file()


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    long = tmp_path / "deep" / ("x" * 250 + ".png")
    with writing.Staged() as staged:
        for path in (tmp_path / "a.txt", long):
            partial = staged(path)
            assert partial.suffix == path.suffix
            partial.write_text("new")
            assert not path.exists()
    assert long.read_text() == (tmp_path / "a.txt").read_text() == "new"


def test_staged_files_of_a_failure_are_removed(tmp_path):
    (tmp_path / "a.txt").write_text("new")

    def failing():
        with writing.Staged() as staged:
            staged(tmp_path / "a.txt").write_text("newer")
            staged(tmp_path / "never.txt")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not hidden(tmp_path)
