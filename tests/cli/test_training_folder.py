"""`ahs-seg segment --dataset`: a folder of photographs becomes a data set that a training reads as it is."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ahs_seg_jax import config
from ahs_seg_jax.cli import app, training_folder
from ahs_seg_jax.cli import segment_files as segment
from ahs_seg_jax.cli.image_jobs import WHOLE, Job, Shard
from ahs_seg_jax.data.folder import open_folder
from ahs_seg_jax.errors import Ending
from ahs_seg_jax.models import ahs_seg
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.training.train import train
from tests.support.standin import StandIn

NAMES = ("grass", "sand", "red toy, red thing")


def photographs(folder: pathlib.Path, *names: str) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (37, 41, 3), np.uint8)).save(path)
    return folder


def settings(unknown="none"):
    return segment.Settings(NAMES, "tiny", None, unknown, "model", None)


def jobs(*names: str) -> list[Job]:
    return [Job(pathlib.Path(f"{name}.jpg"), pathlib.PurePath(name)) for name in names]


def test_pixels_of_no_name_are_unlabelled_in_the_training(tmp_path, capsys):
    given = photographs(tmp_path / "photos", "a.png", "deep/b.jpg", "c.jpg")
    target = tmp_path / "set"
    # The model is never so sure of noise: all pixels are unknown.
    assert segment.run([str(given)], tmp_path / "out", settings(1.0), dataset=target) == 0
    assert f"3 images with labels in {target}: ahs-seg train --config=configs/folder.py" in capsys.readouterr().err
    train, val = (open_folder(target, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1)
    assert train.vocabulary.names == NAMES
    assert {train.name(0), train.name(1), val.name(0)} == {
        *(f"images/train/{train.name(k).removeprefix('images/train/')}" for k in (0, 1)),
        f"images/val/{val.name(0).removeprefix('images/val/')}",
    }
    for source in (train, val):
        for k in range(len(source)):
            assert (source[k]["label"] == -1).all()
            assert source[k]["image"].shape == (37, 41, 3)


def test_labels_are_those_of_the_command_and_the_same_command_changes_nothing(tmp_path):
    given = photographs(tmp_path / "photos", "train/a.png", "train/deep/b.png", "val/c.png")
    for _ in range(2):
        assert segment.run([str(given)], tmp_path / "out", settings(), dataset=tmp_path / "set") == 0
    found = {path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert found == {
        "classes.txt",
        *(f"images/{name}.png" for name in ("train/a", "train/deep/b", "val/c")),
        *(f"annotations/{name}.png" for name in ("train/a", "train/deep/b", "val/c")),
    }
    source = open_folder(tmp_path / "set", "train")
    with Image.open(tmp_path / "out/labels/train/deep/b.png") as labels:
        np.testing.assert_array_equal(source[1]["label"], np.asarray(labels))
    assert source[1]["label"].min() >= 0


def test_the_folder_of_the_images_may_become_the_data_set_itself(tmp_path):
    given = photographs(tmp_path / "set/images", "train/a.png", "val/c.png")
    before = (given / "train/a.png").read_bytes()
    assert segment.run([str(given)], tmp_path / "out", settings(), dataset=tmp_path / "set") == 0
    assert (given / "train/a.png").read_bytes() == before
    assert len(open_folder(tmp_path / "set", "train")) == len(open_folder(tmp_path / "set", "val")) == 1


def test_one_in_ten_is_for_validation_whatever_else_is_there():
    names = [f"photo{k}" for k in range(40)]
    found = dict(zip(names, training_folder.splits(jobs(*names)), strict=True))
    assert list(found.values()).count("val") == 4
    assert training_folder.splits(jobs(*names)) == list(found.values())
    assert sorted(training_folder.splits(jobs("a", "b"))) == ["train", "val"]


def test_what_cannot_become_a_data_set_is_refused_before_anything_is_segmented(tmp_path):
    target, two = tmp_path / "set", jobs("a", "b")

    def check(jobs, shard=WHOLE, chosen=None):
        training_folder.check(target, "out", jobs, chosen or settings(), shard)

    with pytest.raises(ValueError, match=r"--dataset needs two images or more, .*; there is 1"):
        check(jobs("a"))
    with pytest.raises(ValueError, match=r"--dataset: all images lie in train/, so val/ would be empty"):
        check(jobs("train/a", "train/b"))
    with pytest.raises(ValueError, match=r"--dataset needs all images: run it once more without --shard"):
        check(two, Shard(1, 2))
    target.mkdir()
    (target / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"set/classes\.txt holds other class names than these; choose another"):
        check(two)
    check(two, chosen=dataclasses.replace(settings(), classes=("cat", "dog")))


@pytest.mark.slow
def test_photographs_that_a_training_free_method_labels_are_trained_on_as_they_are(tmp_path, monkeypatch):
    given, target = photographs(tmp_path / "photos", *(f"{k}.jpg" for k in range(4))), tmp_path / "set"
    words = ["--classes", "grass; sand; water; road; red toy; blue toy", "--model", "tiny", "--method", "naclip"]
    folders = ["--output", str(tmp_path / "out"), "--dataset", str(target), "--no-overlays"]
    done = CliRunner().invoke(app.app, ["segment", str(given), *words, "--unknown", "0.3", *folders])
    assert done.exit_code == 0, done.output
    source = open_folder(target, "train")
    labels = [source[k]["label"] for k in range(len(source))]
    assert (len(source), len(open_folder(target, "val"))) == (3, 1)
    written = {path.name: label_files.read_mask(path) for path in (tmp_path / "out/labels").glob("*.png")}
    for k, label in enumerate(labels):
        np.testing.assert_array_equal(label, written[pathlib.PurePath(source.name(k)).with_suffix(".png").name])
    # The data do not know which model learns from them.
    monkeypatch.setattr(ahs_seg, "AHSSeg", StandIn)
    simple = ["adaptation=none", "mh_fpn=False", "dc_hsp=False"]
    fields = [f"data.root={target}", "train.steps=2", "eval.pictures=0", *(f"model.{field}" for field in simple)]
    experiment = config.load("configs/folder.py:smoke", [f"--config.{field}" for field in fields])
    assert experiment.losses.unlabelled == "ignored"
    assert train(experiment, tmp_path / "run") == Ending.FINISHED
    content = json.loads(next((tmp_path / "run/results").glob("folder_val*.json")).read_text())
    assert content["data"]["images"] == 1
