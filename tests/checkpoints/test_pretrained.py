"""Converted directories, conversion as a whole, and starting a model from a checkpoint."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import converted, manifest, orbax_params, pretrained
from ahs_seg_jax.checkpoints.formats import convert, writers
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import convert_checkpoint, load_pretrained
from ahs_seg_jax.checkpoints.starting import initialise_from
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from tests.support import ROOT


@pytest.fixture
def source(plain, random_params, tmp_path):
    """A CAT-Seg file that states its sizes, and its parameters."""
    params = random_params("catseg", plain)
    return writers.write(tmp_path / "catseg.safetensors", "catseg", plain, params), params


def pretrained_of(config, params):
    return Pretrained(config, params, {"source": {"path": "file.pth"}})


def test_converted_directory_holds_the_same_and_says_where_from(source, plain, assert_same, tmp_path):
    path, params = source
    convert_checkpoint(path, tmp_path / "converted")
    found = load_pretrained(tmp_path / "converted")
    assert_same(found.params, params)
    assert found.config == plain
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found.params))
    assert found.manifest["source"]["sha256"] == manifest.sha256([path])
    assert found.manifest["source"]["layout"] == "catseg"
    assert found.manifest["statistics"]["clip/text"]["parameters"] == sum(
        leaf.size for leaf in jax.tree.leaves(params["clip"]["text"])
    )
    assert set(found.manifest["versions"]) >= {"ahs_seg_jax", "jax", "orbax-checkpoint"}


def test_every_component_survives_orbax_and_torch(torch, small, random_params, assert_same, tmp_path):
    params = random_params("ahs_seg", small)
    first = writers.write(tmp_path / "a.pth", "ahs_seg", small, params)
    convert_checkpoint(first, tmp_path / "converted")
    convert_checkpoint(tmp_path / "converted", tmp_path / "b.pth", to="ahs_seg")
    found = load_pretrained(tmp_path / "b.pth")
    assert_same(found.params, params)
    assert found.config == small
    beside = json.loads((tmp_path / "b.pth.manifest.json").read_text())
    assert beside["source"]["sha256"] == manifest.sha256([first])
    assert beside["written"] == {"layout": "ahs_seg", "merged": False, "left_out": []}


def test_merging_leaves_a_plain_model(small, random_params, tmp_path):
    from ahs_seg_jax.models.orthogonal import merge

    params = random_params("ahs_seg", small)
    path = writers.write(tmp_path / "a.safetensors", "ahs_seg", small, params)
    written = convert_checkpoint(path, tmp_path / "merged", merge=True)
    found = load_pretrained(tmp_path / "merged")
    assert found.config == small.replace(adaptation="none")
    assert "adaptation" not in found.params["clip"]
    assert written["written"]["merged"]
    assert "clip/adaptation" not in written["contents"]
    expected = merge(small, params)[1]["clip"]["image"]["blocks"]["out"]["kernel"]
    np.testing.assert_array_equal(found.params["clip"]["image"]["blocks"]["out"]["kernel"], expected)


def test_towers_of_a_whole_model_are_written_and_the_rest_is_listed(source, tmp_path):
    written = convert_checkpoint(source[0], tmp_path / "towers", to="hf_clip")
    assert "aggregator/head/kernel" in written["written"]["left_out"]
    found = load_pretrained(tmp_path / "towers")
    assert set(found.params) == {"clip"}
    assert not found.is_complete
    assert json.loads((tmp_path / "towers" / "manifest.json").read_text())["written"]["layout"] == "hf_clip"


def test_nothing_is_overwritten_and_failures_leave_nothing(source, plain, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="taken exists already and is never overwritten"):
        convert_checkpoint(source[0], tmp_path / "taken")
    with pytest.raises(CheckpointError, match=r"a catseg file ends with one of \.pth"):
        convert_checkpoint(source[0], tmp_path / "file", to="catseg")
    with pytest.raises(CheckpointError, match="cannot be written as catseg"):
        writers.write(tmp_path / "half.npz", "catseg", plain, {"clip": source[1]["clip"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catseg.safetensors", "taken"]


def test_a_killed_conversion_leaves_no_result(source, tmp_path):
    program = textwrap.dedent(
        """
        import os, signal, sys
        from ahs_seg_jax.checkpoints import pretrained
        from ahs_seg_jax.storage import writing
        writing.write_text = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # after params/, before its name
        pretrained.convert_checkpoint(sys.argv[1], sys.argv[2])
        """
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(source[0]), str(tmp_path / "converted")]
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "converted").exists()
    convert_checkpoint(source[0], tmp_path / "converted")
    assert load_pretrained(tmp_path / "converted").is_complete


def test_a_full_disk_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError("No space left on device")

    monkeypatch.setattr(orbax_params.ocp.Checkpointer, "save", full)
    with pytest.raises(
        CheckpointError, match=r"converted cannot be written \(the disk is full \(No space left on device\)\)"
    ):
        convert_checkpoint(source[0], tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["catseg.safetensors"]


def test_damaged_converted_directories_are_named(source, tmp_path):
    convert_checkpoint(source[0], tmp_path / "converted")
    stated = json.loads((tmp_path / "converted/manifest.json").read_text())
    (tmp_path / "converted/manifest.json").write_text(json.dumps(stated | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99, this program reads up to 1"):
        load_pretrained(tmp_path / "converted")
    shutil.rmtree(tmp_path / "converted/params")
    (tmp_path / "converted/params").mkdir()
    (tmp_path / "converted/manifest.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"params cannot be read.*convert the checkpoint again"):
        load_pretrained(tmp_path / "converted")
    (tmp_path / "converted/manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged.*convert the checkpoint again"):
        load_pretrained(tmp_path / "converted")


def test_bare_clip_leaves_everything_else_fresh(small, plain, random_params, assert_same):
    fresh = random_params("ahs_seg", small, seed=1)
    clip = random_params("openai_clip", plain, seed=2)
    params, report = initialise_from(fresh, pretrained_of(plain, clip), small)
    assert_same(params["clip"]["image"], clip["clip"]["image"])
    assert_same(params["clip"]["adaptation"], fresh["clip"]["adaptation"])
    assert_same({k: v for k, v in params.items() if k != "clip"}, {k: v for k, v in fresh.items() if k != "clip"})
    assert report["loaded"] == sorted(path for path, _ in parameters.flatten(clip))
    assert {parameters.part_of(path) for path in report["fresh"]} == {
        "aggregator", "clip/adaptation", "dc_hsp", "guidance_up_1", "guidance_up_2", "mh_fpn",
    }  # fmt: skip


def test_rotations_are_kept_when_ha_hem_is_added(small, random_params):
    orthogonal = small.replace(adaptation="orthogonal")
    _, report = initialise_from(
        random_params("ahs_seg", small), pretrained_of(orthogonal, random_params("ahs_seg", orthogonal)), small
    )
    assert report["fresh"] == [f"clip/adaptation/{a}_{t}" for a in ("alpha", "beta") for t in ("image", "text")]


def test_fresh_parameters_may_be_shapes(plain, random_params, assert_same):
    given = random_params("catseg", plain)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)
    params, report = initialise_from(shapes, pretrained_of(plain, given))
    assert_same(params, given)
    assert report["fresh"] == []


def test_a_component_is_loaded_whole_or_not_at_all(small, random_params):
    given = random_params("ahs_seg", small)
    del given["mh_fpn"]["fusion_weights"]
    with pytest.raises(CheckpointError, match=r"file\.pth does not fit.*\n  1 missing:\n    mh_fpn/fusion_weights"):
        initialise_from(random_params("ahs_seg", small), pretrained_of(small, given))


def test_what_does_not_fit_is_an_error_with_a_remedy(small, plain, random_params):
    given = pretrained_of(small, random_params("ahs_seg", small))
    with pytest.raises(CheckpointError, match=r"unexpected:(.|\n)*the file has mh_fpn.*model\.mh_fpn") as caught:
        initialise_from(random_params("ahs_seg", plain), given)
    assert "rotations" in str(caught.value)

    other = plain.replace(image=dataclasses.replace(plain.image, pretrained_grid=6, heads=4))
    with pytest.raises(CheckpointError) as caught:
        initialise_from(random_params("catseg", other), pretrained_of(plain, random_params("catseg", plain)), other)
    assert "clip/image/position_embedding: (50, 28), expected (37, 28)" in str(caught.value)
    assert "set model.image.pretrained_grid = 7" in str(caught.value)
    assert "model.image.heads is 4, the file's is 7" in str(caught.value)


def test_the_model_that_takes_the_weights_tells_what_the_file_does_not(plain, random_params, assert_same, tmp_path):
    params = random_params("openai_clip", plain)
    path = tmp_path / "clip.npz"
    with path.open("wb") as file:
        np.savez(file, **{names[0]: value for names, value in convert.state_dict("openai_clip", plain, params)})
    with pytest.raises(CheckpointError, match="give the configuration of the model"):
        load_pretrained(path)
    found = load_pretrained(path, plain.replace(adaptation="orthogonal"), activation="quick_gelu")
    assert_same(found.params, params)
    assert (found.config.image, found.config.text) == (plain.image, plain.text)
    assert found.config.adaptation == "none"


def test_weights_of_another_activation_do_not_fit_and_say_what_to_set(plain, random_params):
    image = dataclasses.replace(plain.image, activation="gelu", pixel_mean=(127.5, 127.5, 127.5))
    params = random_params("catseg", plain)
    with pytest.raises(CheckpointError) as caught:
        initialise_from(params, pretrained_of(plain.replace(image=image), params), plain)
    text = str(caught.value)
    assert "model.image.activation is 'quick_gelu', the file's is 'gelu': set activation = 'gelu'" in text
    assert "model.image.pixel_mean is (122.7709383, 116.7460125, 104.09373615), the file's is (127.5, 127.5" in text


def test_an_activation_that_the_option_does_not_take_is_set_in_its_tower(plain, random_params):
    params = random_params("catseg", plain)
    gated = plain.replace(image=dataclasses.replace(plain.image, activation="silu"))
    with pytest.raises(CheckpointError, match=r"the file's is 'silu': set model\.image\.activation = 'silu'"):
        initialise_from(params, pretrained_of(gated, params), plain)


def test_the_command_converts_and_explains(source, tmp_path):
    script = ROOT / "scripts" / "convert_checkpoint.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def command(*arguments):
        line = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(line, env=environment, check=False, capture_output=True, text=True)

    done = command(source[0], tmp_path / "towers", "--to", "hf_clip")
    assert done.returncode == 0, done.stderr
    assert "clip/text" in done.stdout
    assert "left out" in done.stdout
    assert "reading: 1" in done.stderr
    assert load_pretrained(tmp_path / "towers").manifest["source"]["layout"] == "hf_clip"
    again = command(source[0], tmp_path / "towers", "--to", "hf_clip")
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr
    shown = command("--help").stdout
    assert "--merge" in shown
    assert "ahs-seg convert model_base.pth catseg_base" in shown


def test_a_training_run_is_a_source_like_any_other(small, random_params, assert_same, tmp_path):
    from ahs_seg_jax.checkpoints import store

    params = random_params("ahs_seg", small)
    frozen = {"clip": params["clip"]}
    learned = {name: tree for name, tree in params.items() if name != "clip"}
    state = {"trainable": learned, "frozen": frozen, "opt_state": {}, "ema": None, "step": np.int32(7)}
    checkpoints = store.CheckpointStore(tmp_path / "run", keep=1)
    checkpoints.save(7, state, {"config": {"model": manifest.config_to_json(small)}, "step": 7})
    checkpoints.finish()
    checkpoints.close()
    found = load_pretrained(tmp_path / "run")
    assert_same(found.params, params)
    assert found.config == small
    assert found.manifest["source"]["kind"] == "training workdir"
    convert_checkpoint(tmp_path / "run", tmp_path / "run.npz", to="ahs_seg")
    assert_same(load_pretrained(tmp_path / "run.npz").params, params)


def test_a_converted_directory_keeps_what_is_known_of_the_training(plain, random_params, tmp_path):
    meta = {"step": 7, "vocabulary": {"names": ["sky"], "templates": ["{}"]}}
    for name, more in (("trained", {"training": meta}), ("foreign", {})):
        described = manifest.describe(plain, {"path": "f"}) | more
        converted.save_converted(tmp_path / name, Pretrained(plain, random_params("catseg", plain), described))
    assert pretrained.training_meta(tmp_path / "trained") == meta
    assert pretrained.training_meta(tmp_path / "foreign") is None
    assert pretrained.training_meta(tmp_path / "nothing") is None
