"""What is wrong is said before anything runs, with its cause, wherever it comes from."""

import json
import math
import os
import pathlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from ahs_seg_jax.checkpoints import converted, manifest, step_folders
from ahs_seg_jax.cli import options
from ahs_seg_jax.cli.app import app
from ahs_seg_jax.config import command_line
from ahs_seg_jax.data.prepared import layout
from ahs_seg_jax.errors import CheckpointError, ConfigError
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import geotiff, large_tiff
from ahs_seg_jax.training import resume, workdir_lock
from tests.checkpoints.conftest import PLAIN, _random_params
from tests.support.training import experiment


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--windows", "native", "--window", "1000000"], "the window is 1000000 pixels; give at least 1, better 100"),
        (["--windows", "native", "--stride", "99999"], "the stride is 99999; it must lie within 1 and the window's"),
        (["--memory-gb", "nan"], "'--memory-gb': nan is not a finite number"),
        (["--memory-gb", "-1"], "memory_gb is -1.0; give a number of 1e9 bytes"),
        (["--unknown", "nan"], "unknown is nan; as a probability it must lie within 0..1"),
        (["--unknown", "Grass"], "name 3, 'Grass', repeats name 1, 'grass'"),
        (["--model", "~nosuchuser/x"], "there is no checkpoint at ~nosuchuser/x"),
        (["--model", "/dev/zero"], "/dev/zero is no regular file"),
        (["--output", "/dev/null"], "results cannot be written to /dev/null"),
    ],
)
def test_a_mistake_ends_before_the_first_image(tmp_path, image, given, words):
    command = ["segment", str(image), "--classes", "grass; sand", "--output", str(tmp_path / "out"), *given]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, words in result.output, "[1/1]" in result.output) == (2, True, False), result.output


def test_a_cause_of_several_lines_is_told_with_its_first(image):
    error = ValueError("the names have 2 problem(s):\n  - the first\n  - the second")
    assert options.cause(error) == "the names have 2 problem(s): the first"


@pytest.mark.parametrize(("value", "shown"), [("", False), ("0", False), ("false", False), ("off", False), ("1", True)])
def test_tracebacks_are_for_those_who_ask(monkeypatch, value, shown):
    monkeypatch.setenv("AHS_SEG_TRACEBACK", value)
    result = CliRunner().invoke(app, ["segment", "none.png", "--classes", "a", "--model", "no/such/model.npz"])
    assert isinstance(result.exception, CheckpointError) is shown


def test_names_of_directories_that_only_look_like_steps(tmp_path):
    for name in ("\u00b2", "\u0663", "7", "x"):
        (tmp_path / "checkpoints" / name / "state").mkdir(parents=True)
    assert step_folders.steps_in(step_folders.absolute(tmp_path / "checkpoints")) == [7]
    assert not step_folders.is_checkpoint(tmp_path / "checkpoints" / "\u00b2")


def test_checkpoints_before_contents_were_compared_are_continued():
    class Source:
        def fingerprint(self):
            return {"images": 3, "contents_sha256": "now"}

    meta = {"config": command_line.to_config_dict(experiment()).to_dict(), "step": 1}
    resume.check_workdir(meta | {"data": {"images": 3}}, experiment(), Source())
    with pytest.raises(resume.WorkdirMismatch, match="contents_sha256: stored 'before', now 'now'"):
        resume.check_workdir(meta | {"data": {"images": 3, "contents_sha256": "before"}}, experiment(), Source())


WRONG = [None, [], {}, "x", 7, -1, math.nan, True, 10**30, [[]], {"names": 3}, {"eval": []}, [{"a": None}]]


def paths_of(content, prefix=()):
    for name, value in content.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, name))


def test_wrong_types_in_a_manifest_without_a_seal(tmp_path):
    training = {
        "vocabulary": {"names": ["a"], "templates": ["a {}"], "synonyms": "first", "groups": []},
        "config": {"model": {}, "eval": {"protocol": "whole"}},
        "step": 3,
    }
    about = manifest.describe(PLAIN, {"path": "f", "layout": "catseg"}, training)
    folder = converted.save_converted(
        tmp_path / "a", manifest.Pretrained(PLAIN, _random_params("catseg", PLAIN), about)
    )
    content = json.loads((folder / converted.MANIFEST).read_text())
    del content["seal"], content["hashes"]
    refused = 0
    for path in paths_of(content):
        for wrong in WRONG:
            changed = json.loads(json.dumps(content))
            group = changed
            for part in path[:-1]:
                group = group[part]
            group[path[-1]] = wrong
            (folder / converted.MANIFEST).write_text(json.dumps(changed))
            try:
                found, stored = converted._read_manifest(pathlib.Path(folder))
                config = manifest.config_from_json(found.get("config"), "it")
                loaded = manifest.Pretrained(config, {}, found)
                _ = loaded.templates, loaded.trained_names, loaded.protocol, loaded.manifest["source"]["path"], stored
                if loaded.training:
                    manifest.stored_vocabulary(loaded.training)
            except CheckpointError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("content", [[], 7, None, "x", [["train", {}]]])
def test_a_stored_configuration_that_is_none(content):
    with pytest.raises(ConfigError, match="a group of fields is expected"):
        command_line.from_config_dict(content)


def test_a_window_is_bounded():
    assert NativeWindows(window=2**14).window == 16384
    with pytest.raises(ValueError, match="at most 16384"):
        NativeWindows(window=2**14 + 1)


def test_category_names_lie_beside_labels_only():
    assert geotiff.categories_beside(pathlib.Path("a/labels.tif")) == pathlib.Path("a/labels.tif.aux.xml")


DAMAGED = ["", "{", "[]", "7", "null", '"x"', "{}", '{"splits": 3}', "[" * 100_000, '{"pid": 1}', "\ufffd"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_notes_of_a_run_that_are_damaged_are_none(tmp_path, text):
    (tmp_path / "run.lock").write_text(text)
    with workdir_lock.WorkdirLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    (tmp_path / "notes.json").write_text(text)
    assert large_tiff._Progress.load(tmp_path / "notes.json", "key", 2).counts == [0, 0, 0]


@pytest.mark.parametrize("text", sorted({*DAMAGED} - {"{}", '{"pid": 1}'}), ids=range(len(DAMAGED) - 2))
def test_facts_of_prepared_data_that_are_damaged_are_named(tmp_path, text):
    (tmp_path / layout.FACTS).write_text(text)
    with pytest.raises(ValueError, match=r"is damaged \(.*\); remove it, and prepare the benchmark again"):
        layout.read_facts(tmp_path)


@pytest.mark.parametrize("text", ["{", "7", "{}", "[1]", "[" * 100_000])
def test_names_in_a_png_that_are_no_names(tmp_path, text):
    about = PngImagePlugin.PngInfo()
    about.add_itxt(label_files.CLASS_NAMES, text)
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "a.png", pnginfo=about)
    with pytest.raises(ValueError, match="the names of its classes are no list"):
        label_files.read_png(tmp_path / "a.png")
