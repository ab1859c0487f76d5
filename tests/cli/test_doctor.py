"""`ahs-seg doctor`: its report and its verdict."""

from ahs_seg_jax import packaged
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.cli import doctor
from ahs_seg_jax.segmenter import Segmenter


def test_a_healthy_installation(capsys):
    assert doctor.run() == 0
    said = capsys.readouterr().out
    for line in ("system ", "versions   python 3.", "memory ", "cache ", "device     0: cpu", "self-test  passed"):
        assert line in said


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
