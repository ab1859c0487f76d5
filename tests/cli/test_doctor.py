"""`ahs-seg doctor`: its report and its verdict."""

import importlib.metadata

import pytest

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import doctor
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.segmenter import Segmenter


def test_a_healthy_installation(capsys):
    assert doctor.run() == 0
    said = capsys.readouterr().out
    for line in ("system ", "versions   python 3.", "memory ", "cache ", "device     0: cpu", "self-test  passed"):
        assert line in said


@pytest.mark.parametrize("package", ["rasterio", "onnxruntime"])
def test_optional_packages_are_named_where_they_are_installed(capsys, monkeypatch, package):
    monkeypatch.setattr(doctor, "_self_test", lambda: 0)
    asked = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "12.3.4" if name == package else asked(name))
    assert doctor.run() == 0
    assert f", {package} 12.3.4" in capsys.readouterr().out


def test_a_wrong_answer_fails(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "TOLERANCE", -1.0)
    assert doctor.run() == 1
    assert "self-test  FAILED" in capsys.readouterr().out


def test_a_missing_model_is_named(capsys, monkeypatch):
    def refuse(path: str) -> Segmenter:
        raise CheckpointError("tiny.safetensors cannot be read")

    monkeypatch.setattr(Segmenter, "from_pretrained", refuse)
    assert packaged.TINY == "tiny"
    assert doctor.run() == 1
    assert "FAILED: tiny.safetensors cannot be read" in capsys.readouterr().out
