"""`--activation`: every command that takes a model hands it to whoever reads the model; results say which it was."""

import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from typer.testing import CliRunner

from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.cli import app as cli
from ahs_seg_jax.cli import compare, compilation_cache, options, segment_files
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.devices import host_memory
from ahs_seg_jax.errors import CheckpointError
from scripts import compare_methods
from tests.support.training_free import SMALL, small_clip, small_goldens

COMMANDS = {
    "segment": "IMAGE --classes x --model bare.pt --output out",
    "compare": "IMAGE --classes x --classes y --model bare.pt --output out",
    "components": "bare.pt --output out",
    "demo": "--model bare.pt",
    "serve": "--model bare.pt",
    "benchmark": "--model bare.pt",
    "convert": "bare.pt out",
    "push": "bare.pt someone/name",
    "export": "bare.pt out",
    "parity": "bare.pt activations.npz",
    "evaluate": "--model bare.pt --benchmark voc_20",
}


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(small_goldens().stored["image"]).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_a_model_hands_it_on(name, picture, tmp_path, monkeypatch):
    def asked(source, *_, activation=None, **__):
        raise CheckpointError(f"{source} is read as {activation}")

    monkeypatch.setattr(pretrained, "load_pretrained", asked)
    monkeypatch.setattr(options, "check_address", lambda *_: None)
    monkeypatch.setattr(host_memory, "return_freed_memory", lambda: None)
    monkeypatch.setenv(compilation_cache.VARIABLE, "off")
    monkeypatch.chdir(tmp_path)
    arguments = [name, *COMMANDS[name].replace("IMAGE", str(picture)).split()]
    for given in (None, "gelu", "quick_gelu"):
        done = CliRunner().invoke(cli.app, [*arguments, *(["--activation", given] if given else [])])
        assert (done.exit_code, f"error: bare.pt is read as {given}" in done.output) == (2, True), done.output


def test_of_a_configurations_run_it_is_a_field():
    done = CliRunner().invoke(cli.app, ["evaluate", "--config=configs/tiny.py", "--activation", "gelu"])
    assert (done.exit_code, "--activation needs --model" in done.output) == (2, True)


def test_a_table_of_methods_takes_it_too():
    given = ["--model", "bare.pt", "--benchmark", "voc_20", "--activation", "gelu"]
    assert compare_methods.parse(given).activation == "gelu"


@pytest.fixture
def silent(tmp_path):
    """A CLIP whose folder leaves the activation to whoever reads it."""
    folder = writers.write(tmp_path / "clip", "hf_clip", SMALL, small_clip())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")  # without our own configuration
    about = json.loads((folder / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        del about[tower]["hidden_act"]
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def settings(folder, **changes):
    given = {"protocol": None, "unknown": "none", "keep": "model", "memory_gb": None}
    return Settings(classes=("wall", "face"), model=str(folder), **(given | changes))


def test_results_of_one_activation_are_not_continued_with_another(silent, picture, tmp_path):
    run = lambda **changes: segment_files.run([str(picture)], tmp_path / "out", settings(silent, **changes))
    assert run(activation="gelu") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["activation"] == "gelu"
    with pytest.raises(ValueError, match="holds results with another activation, weights; choose another --output"):
        run()  # transformers' default, quick_gelu
    assert run(activation="gelu") == 0


def test_both_activations_side_by_side(silent, picture, tmp_path):
    given = compare.paired([str(silent)], ["wall; face"], activations=["model", "gelu"])
    assert [each.activation for each in given] == [None, "gelu"]
    assert compare.titles(given) == ["as stated", "gelu"]
    assert compare.run([str(picture)], given, tmp_path / "out", None, None) == 0
    width = small_goldens().stored["image"].shape[1]
    with Image.open(tmp_path / "out" / "a.png") as shown:
        assert np.asarray(shown).shape[1] > 3 * width
