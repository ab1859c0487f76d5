"""The parity report, by hand and on a small model; the published programs' full-size activations (slow)."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from typer.testing import CliRunner

from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import entries
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.cli import app
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.evaluation import parity
from ahs_seg_jax.models import architecture, parameters


def test_compare_finds_the_step_and_the_error():
    ours = np.arange(5 * 7, dtype=np.float32).reshape(5, 7)
    theirs = ours[::2, ::3].copy()
    theirs[1, 2] -= 0.5
    row = parity.compare("dense", ours, theirs)
    assert (row.shape, row.error, row.largest) == ((3, 3), 0.5, 34.0)
    assert row.relative == 0.5 / 34
    assert not row.holds
    assert parity.compare("dense", ours, ours[::2, ::3]).holds
    assert parity.compare("layer0", ours, np.concatenate([theirs[:1] + 9, ours[2::2, ::3]]), skip=1).error == 0.0


def test_compare_counts_equal_classes_and_labels():
    ours = np.array([[1.0, 5.0, 0.0], [2.0, 4.0, 1.0]])  # [t, position]
    theirs = np.array([[3.0, 5.0, 0.0], [2.0, 4.0, 1.0]])
    assert parity.compare("logits", ours, theirs, classes=0).agreement == pytest.approx(2 / 3)
    row = parity.compare("labels", np.array([1, 2, 3, 9]), np.array([1, 2, 3, 4]))
    assert (row.agreement, row.holds) == (0.75, False)
    assert parity.compare("kept", np.array([7, 8]), np.array([7, 8])).holds
    assert not parity.compare("dense", np.array([np.nan, 1.0]), np.array([1.0, 1.0])).holds


def test_compare_refuses_shapes_that_no_step_gives():
    with pytest.raises(CheckpointError, match=r"dense is saved as \[4\], which is not every k-th .* \[5\]"):
        parity.compare("dense", np.zeros(5), np.zeros(4))
    with pytest.raises(CheckpointError, match=r"dense is saved as \[5, 1\]"):
        parity.compare("dense", np.zeros(5), np.zeros((5, 1)))


@pytest.fixture(scope="module")
def tiny():
    """The smallest preset, cut to two image blocks, without components that no published activations have."""
    config = architecture.tiny().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    config = config.replace(
        image=dataclasses.replace(config.image, layers=2), text=dataclasses.replace(config.text, layers=1)
    )
    random = np.random.default_rng(0)
    shapes = target_shapes(entries("catseg", config))
    leaves = {path: 0.1 * random.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    return Pretrained(config, parameters.unflatten(leaves), {"source": {"path": "random"}})


@pytest.fixture(scope="module")
def activations(tiny):
    """What the model itself computes, in the published programs' axis order, every k-th element."""
    inputs = {
        "image": np.random.default_rng(0).integers(0, 256, (67, 83, 3), np.uint8),
        "class_names": np.array(["red circle", "blue star, star", "sky"]),
    }
    whole = parity._whole_image(tiny, inputs, 2)
    steps = {"dense_features": (1, 1, 2, 3), "layer0": (5, 1), "probabilities": (1, 4, 4), "logits": (1, 1, 1, 1)}
    saved = {name: np.asarray(whole[name])[tuple(slice(None, None, k) for k in step)] for name, step in steps.items()}
    saved["probabilities_4"] = saved.pop("probabilities")
    saved["text_embeddings"] = np.asarray(whole["text_embeddings"])
    return inputs | saved


def test_the_same_model_holds_everywhere_and_another_does_not(tiny, activations):
    rows = parity.report(tiny, activations)
    assert [row.stage for row in rows] == ["dense_features", "layer0", "logits", "probabilities", "text_embeddings"]
    assert [row.shape for row in rows[1:4]] == [(12, 128), (1, 3, 32, 32), (3, 17, 21)]
    assert all(row.holds for row in rows)

    head = tiny.params["aggregator"]["head"]
    aggregator = tiny.params["aggregator"] | {"head": head | {"bias": head["bias"] + 1}}
    other = Pretrained(tiny.config, tiny.params | {"aggregator": aggregator}, tiny.manifest)
    held = {row.stage: row.holds for row in parity.report(other, activations)}
    assert held == {
        "dense_features": True, "layer0": True, "logits": False, "probabilities": False, "text_embeddings": True
    }  # fmt: skip


def command(*arguments):
    return CliRunner().invoke(app.app, ["parity", *map(str, arguments)])


def test_the_command_prints_a_table_and_says_whether_it_holds(tiny, activations, tmp_path):
    writers.write(tmp_path / "tiny.npz", "catseg", tiny.config, tiny.params)
    np.savez(tmp_path / "saved.npz", **activations)
    done = command(tmp_path / "tiny.npz", tmp_path / "saved.npz")
    assert done.exit_code == 0
    columns = ["stage", "compared", "max", "error", "relative", "labels", "equal"]
    assert done.stdout.splitlines()[0].split() == columns
    assert "100.000 %  ok" in done.stdout
    np.savez(tmp_path / "saved.npz", **activations | {"layer0": activations["layer0"] * 1.001})
    done = command(tmp_path / "tiny.npz", tmp_path / "saved.npz")
    assert done.exit_code == 1
    assert "DIFFERS" in done.stdout


def test_what_cannot_be_compared_is_said(tiny, activations, tmp_path):
    with pytest.raises(CheckpointError, match="lack class_names and image"):
        parity.report(tiny, {"logits": np.zeros(3)})
    with pytest.raises(CheckpointError, match="no activation is called attention; choose among dense_features"):
        parity.report(tiny, activations | {"attention": np.zeros(3)})
    np.savez(tmp_path / "saved.npz", **activations)
    writers.write(tmp_path / "clip.npz", "openai_clip", tiny.config, tiny.params)
    for source, text in (("clip.npz", "is a bare CLIP"), ("absent.npz", "error: there is no checkpoint at")):
        done = command(tmp_path / source, tmp_path / "saved.npz")
        assert done.exit_code == 2
        assert text in done.stderr
    assert "error: " in command(tmp_path / "tiny.npz", tmp_path / "absent.npz").stderr


CASES = {
    "ahs_seg_vitb16": ("vitb_forward", "vitb_sliding_window", "vitb_many_classes"),
    "catseg_vitb16": ("catseg_vitb16_forward",),
    "catseg_vitl14_336": ("catseg_vitl14_336_forward",),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_published_activations_hold(torch, shared, layout, tmp_path):
    spec = importlib.util.spec_from_file_location("weights", shared / "golden" / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    kept = {}
    state = {
        name: kept.setdefault(id(v), torch.from_numpy(np.array(v))) for name, v in weights.state_dict(layout).items()
    }
    torch.save({"model": state}, tmp_path / "standin.pth")
    del state, kept
    pretrained = load_pretrained(tmp_path / "standin.pth")
    for case in CASES[layout]:
        with np.load(shared / "golden" / f"{case}.npz", allow_pickle=False) as file:
            rows = parity.report(pretrained, dict(file))
        print(f"{layout} {case}\n{parity.table(rows)}")
        assert all(row.holds for row in rows), parity.table(rows)
