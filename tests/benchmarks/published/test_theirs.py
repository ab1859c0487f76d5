"""The published program in its process: built from its folder, compiled, exported; a small one stands for it."""

import dataclasses
import shutil

import numpy as np
import pytest

from benchmarks.published import side_by_side
from benchmarks.published.job import Job
from tests.support.published_program import run_job

JOB = Job(work="whole", folder="", names=("sky", "tree", "road"), weights="", image=(37, 53), batch=2, crop=19)


@pytest.mark.filterwarnings("default")
def test_published_program_is_built_from_its_folder(program, monkeypatch, tmp_path):
    from benchmarks.published import theirs

    job = dataclasses.replace(JOB, folder=str(program), weights=str(tmp_path / "weights.pth"), repetitions=2)
    model = theirs.build(job)
    assert "visual.proj" in model.names
    assert model.sem_seg_head.mlp.fc1.weight.shape == (7, 3)
    theirs.fill(model)
    first = model.sem_seg_head.mlp.fc1.weight.clone()
    theirs.fill(model)
    assert (model.sem_seg_head.mlp.fc1.weight == first).all()

    def run(work: str) -> dict:
        answer = tmp_path / f"{work}.npz"
        one = dataclasses.replace(job, work=work, count_flops=work != "weights", answer=str(answer))
        return run_job(theirs, one, tmp_path, monkeypatch)

    assert run("weights") == {}
    record = run("whole")
    assert len(record["seconds"]) == 2
    assert record["flops"] == 2 * 37 * 53 * (3 * 7 + 7 * 3)
    found = np.load(tmp_path / "whole.npz")
    assert found["labels"].shape == (37, 53)
    assert found["probabilities"].shape == (3, 5, 7)
    assert run("training")["flops"] == 2 * 2 * 19 * 19 * (3 * 7 * 2 + 7 * 3 * 3)
    assert set(np.load(tmp_path / "training.npz")) == {"loss", "gradient_norm"}


def compiled_as_in_eager_mode(job, folder, monkeypatch):
    """The replies and answers of both, for training and inference."""
    from benchmarks.published import theirs

    run = lambda **changes: run_job(theirs, dataclasses.replace(job, **changes), folder, monkeypatch)
    run(work="weights")
    for work in ("whole", "training"):
        replies, answers = {}, {}
        for runner in ("eager", "compiled"):
            answer = folder / f"{work}_{runner}.npz"
            replies[runner] = run(work=work, runner=runner, answer=str(answer))
            answers[runner] = dict(np.load(answer))
        assert replies["eager"]["compile_seconds"] is None
        assert replies["compiled"]["compile_seconds"] > 0
        assert set(answers["compiled"]) == set(answers["eager"])
        for name, value in answers["eager"].items():
            np.testing.assert_allclose(answers["compiled"][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("default")
def test_compiled_form_by_a_compiler_that_changes_nothing(program, monkeypatch, tmp_path):
    import torch

    asked = []

    def compile_(self, mode):
        asked.append(mode)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    job = dataclasses.replace(JOB, folder=str(program), weights=str(tmp_path / "weights.pth"), mode="reduce-overhead")
    with torch._inductor.config.patch(freezing=False):
        compiled_as_in_eager_mode(job, tmp_path, monkeypatch)
        assert torch._inductor.config.freezing, "in inference, on a CPU"
    assert asked == ["reduce-overhead"] * 2


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, side_by_side.COMPILERS)), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_compiled_form_by_inductor(program, monkeypatch, tmp_path):
    import torch

    job = dataclasses.replace(JOB, folder=str(program), weights=str(tmp_path / "weights.pth"))
    with torch._inductor.config.patch(freezing=False):
        compiled_as_in_eager_mode(job, tmp_path, monkeypatch)


def test_folder_without_the_program(tmp_path):
    from benchmarks.published import stand_ins

    with pytest.raises(FileNotFoundError, match=r"holds no cat_seg/cat_seg_model.py; pass the folder"):
        stand_ins.install(tmp_path)


def test_weights_that_lack_a_parameter(tmp_path):
    import torch

    from benchmarks.published import theirs

    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"no weights for 2 parameters of the program, such as bias"):
        theirs.load(torch.nn.Linear(2, 3), str(tmp_path / "empty.pth"))


@pytest.mark.filterwarnings("default")
def test_exported_form_in_onnx_runtime(program, monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from benchmarks.published import onnx_run, theirs

    job = dataclasses.replace(
        JOB, folder=str(program), weights=str(tmp_path / "weights.pth"), exported=str(tmp_path / "whole.onnx")
    )

    def run(module, **changes) -> dict[str, np.ndarray]:
        one = dataclasses.replace(job, answer=str(tmp_path / "answer.npz"), **changes)
        reply = run_job(module, one, tmp_path, monkeypatch)
        return dict(np.load(one.answer)) | reply if "seconds" in reply else reply

    run(theirs, work="weights")
    eager = run(theirs)
    assert run(theirs, runner="export") == {}
    exported = run(onnx_run, runner="onnxruntime")
    np.testing.assert_allclose(exported["probabilities"], eager["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(exported["labels"], eager["labels"])
    assert len(exported["seconds"]) == JOB.repetitions
    assert exported["versions"] == {"onnxruntime": onnxruntime.__version__}
    with pytest.raises(RuntimeError, match="this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu"):
        onnx_run.start(dataclasses.replace(job, device="cuda"))


def test_block_diagonal_is_torchs():
    import torch

    from benchmarks.published import onnx_export

    blocks = [torch.arange(6.0).reshape(2, 3) + 1, torch.ones(1, 2), torch.full((3, 1), 5.0)]
    assert (onnx_export.block_diagonal(*blocks) == torch.block_diag(*blocks)).all()
