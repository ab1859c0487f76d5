"""The doctor: reports on prepared data, on other sources, on downloads; contact sheets; the command line."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.benchmarks.benchmark import ROOT_VARIABLE
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.coco_downloads import CocoStuffSource
from ahs_seg_jax.data.folder import FolderSource
from ahs_seg_jax.data.prepared import doctor, layout
from ahs_seg_jax.data.prepared.contact_sheet import GAP, WIDTH, contact_sheet
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.pictures.colors import assign_colors
from tests.support import trees
from tests.support.commands import data_command
from tests.support.trees import rows

COUNT = "3 images with labels were found, the published set has 2,000"
FEW = "3 images are too few to judge how often classes occur"


def prepare(root, **settings):
    return trees.prepared(BENCHMARKS["ade20k_150"], root, **settings)


@pytest.fixture
def root(tmp_path):
    trees.ade20k_150(tmp_path, {f"ADE_val_{k}": rows([0, k, 150]) for k in range(1, 4)})
    prepare(tmp_path)
    return tmp_path


def test_a_folder_and_a_source_are_examined_alike(root):
    for data in (layout.prepared_folder(root, "ade20k_150"), PreparedSource(root, "ade20k_150", "val")):
        report = doctor.examine(data)
        assert (report.problems, report.warnings) == ((f"val: {COUNT}",), (f"val: {FEW}",))
        assert report.text() == f"ade20k_150: refused\n  problem: val: {COUNT}\n  warning: val: {FEW}"


def test_whole_data_are_healthy(root, monkeypatch):
    known = dataclasses.replace(BENCHMARKS["ade20k_150"], counts={"val": (3,)})
    assert prepare(root)["splits"]["val"]["expected"] == [2000]
    trees.prepared(known, root, partial=False)
    report = doctor.record(root, "ade20k_150", reread=True)
    assert report.text() == f"ade20k_150: healthy\n  warning: val: {FEW}"
    assert PreparedSource(root, "ade20k_150", "val").doctor_problems == ()


def test_an_unfinished_folder(tmp_path):
    with pytest.raises(ValueError, match=r"holds no finished preparation; run ahs-seg data prepare"):
        doctor.examine(tmp_path)


def test_what_was_left_out_and_limited_is_said(root):
    (root / "ADEChallengeData2016/annotations/validation/ADE_val_1.png").write_bytes(b"")
    prepare(root, limit=2, again=True)
    problems = doctor.examine(layout.prepared_folder(root, "ade20k_150")).problems
    assert len(problems) == 3
    assert problems[1] == "val: limited to the first 2 of 3 images by --limit"
    assert problems[2].startswith("val: 1 images could not be read: ")
    assert "ADE_val_1.png cannot be read" in problems[2]


def test_values_outside_the_map_are_problems_with_few_images_too(tmp_path):
    labels = {f"ADE_val_{k}": rows([0, k, 151]) for k in range(1, 4)} | {"ADE_val_9": rows([200])}
    trees.ade20k_150(tmp_path, labels)
    prepare(tmp_path)
    problems = doctor.examine(PreparedSource(tmp_path, "ade20k_150", "val")).problems
    text = "val: 4 labels hold values that the data set never uses (151, 200), as ADE_val_1, ADE_val_2, ADE_val_3"
    assert problems[1].startswith(text)


def test_records_that_changed_are_found_by_reading_again(root):
    folder = layout.prepared_folder(root, "ade20k_150")
    facts = json.loads((folder / layout.FACTS).read_text())
    facts["splits"]["val"]["classes"][0] += 1
    (folder / layout.FACTS).write_text(json.dumps(facts))
    assert len(doctor.record(root, "ade20k_150").problems) == 1
    problems = doctor.record(root, "ade20k_150", reread=True).problems
    assert problems[1] == "val: the labels are not those that were prepared; prepare again with --again"


def test_downloads_of_a_benchmark_are_read(tmp_path):
    trees.coco_stuff(tmp_path, "val", {"000000000139": rows([0, 181])})
    report = doctor.examine(CocoStuffSource(tmp_path, "val"))
    assert report.problems == ("val2017: 1 images with labels were found, the published set has 5,000",)
    assert report.warnings == ("val2017: 1 images are too few to judge how often classes occur",)


def test_other_sources_are_judged_by_their_files_alone(tmp_path):
    assert doctor.examine(ScenesSource(ScenesConfig(val_images=2), "val")).problems == ()
    trees.photograph(tmp_path / "images/val/a.jpg")
    trees.png(tmp_path / "annotations/val/a.png", rows([0, 1, 2, 0, 0, 0, 0]))
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    problems = doctor.examine(FolderSource(tmp_path, "val")).problems
    assert len(problems) == 1
    assert "a.png: values 2 are no class; classes.txt has 2 names" in problems[0]


class Unmapped(ScenesSource):
    """Labels as some data sets store them: 1 is the first class."""

    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": np.array([[1, len(self.vocabulary)]])}


def test_labels_that_were_never_mapped():
    classes = len(ScenesSource(ScenesConfig(val_images=2), "val").vocabulary)
    problems = doctor.examine(Unmapped(ScenesConfig(val_images=2), "val")).problems
    text = f"val: 2 labels hold values of {classes} and more, but there are {classes} classes: "
    text += "they are shifted by one (+1)"
    assert problems == (text,)


def test_the_contact_sheet_shows_eight_with_their_classes(root):
    source = PreparedSource(root, "ade20k_150", "val")
    sheet = contact_sheet(source, 8)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 3 * (WIDTH + GAP) + GAP
    wall = (sheet == assign_colors(source.vocabulary.names)[0]).all(axis=-1)
    assert wall[:, : WIDTH + GAP].any()
    assert not wall[:, WIDTH + 2 * GAP :].any()
    assert contact_sheet(ScenesSource(ScenesConfig(val_images=11), "val"), 8).shape[1] == 4 * (WIDTH + GAP) + GAP


def test_an_unreadable_example_says_so_on_the_sheet(tmp_path):
    trees.photograph(tmp_path / "images/val/a.jpg")
    trees.png(tmp_path / "annotations/val/a.png", rows([7] * 7))
    (tmp_path / "classes.txt").write_text("road\n")
    assert contact_sheet(FolderSource(tmp_path, "val"), 8).shape[1] == WIDTH + 2 * GAP


def test_command(root, tmp_path_factory, capsys):
    output = tmp_path_factory.mktemp("sheets")
    assert data_command(["doctor", "ade20k_150", "--root", str(root), "--output", str(output)]) == 1
    assert f"problem: val: {COUNT}" in capsys.readouterr().out
    with Image.open(output / "contact_sheet-val.png") as sheet:
        assert sheet.mode == "RGB"
    verdict = json.loads((layout.prepared_folder(root, "ade20k_150") / "doctor.json").read_text())
    assert verdict == {"splits": {"val": {"problems": [COUNT], "warnings": [FEW]}}}


def test_command_on_downloads_and_on_nothing(tmp_path, capsys):
    trees.voc(tmp_path, {"2007_000033": rows([0, 1, 255])})
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg").unlink()
    assert data_command(["doctor", "ade20k_150", "voc_20", "--root", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "error: ade20k_150: " in captured.err
    assert "problem: val: 0 images with labels, the published set has 1,449" in captured.out
    assert "problem: val: 1 label(s) without image: 2007_000033" in captured.out
    assert "only files were counted: ahs-seg data prepare voc_20" in captured.out
    assert data_command(["doctor", "voc_20", "--root", str(tmp_path)]) == 1


def test_command_without_a_folder_and_with_one_that_cannot_be_written(root, capsys, monkeypatch):
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    assert data_command(["doctor", "ade20k_150"]) == 2
    assert "error: --root is empty" in capsys.readouterr().err
    assert data_command(["doctor", "ade20k_150", "--root", str(root / "nowhere")]) == 2
    assert "error: ade20k_150: " in capsys.readouterr().err
    (root / "file").write_text("in the way")
    assert data_command(["doctor", "ade20k_150", "--root", str(root), "--output", str(root / "file")]) == 2
    assert "error: " in capsys.readouterr().err
