"""Turns, agreement and ratios with programs that are made up here, and a made-up published program in PyTorch."""

import dataclasses

import numpy as np
import pytest

from benchmarks import results_file
from benchmarks.published import side_by_side
from benchmarks.published.job import IGNORE, Job, picture, seen, training_batch

JOB = Job(work="whole", folder="", names=("sky", "tree", "road"), weights="", image=(37, 53), batch=2, crop=19)


def test_inputs_are_the_same_in_both_processes(tmp_path):
    JOB.write(tmp_path / "job.json")
    assert Job.read(str(tmp_path / "job.json")) == JOB
    assert picture(JOB, 3).shape == (37, 53, 3)
    np.testing.assert_array_equal(picture(JOB, 3), picture(JOB, 3))
    assert (picture(JOB, 3) != picture(JOB, 4)).any()
    np.testing.assert_array_equal(seen(JOB, 3), picture(JOB, 3))
    assert seen(dataclasses.replace(JOB, work="sliding"), 3).shape == (640, 917, 3)  # 37 x 53, enlarged 17.3 times
    images, labels = training_batch(JOB, 0)
    assert images.shape == (2, 19, 19, 3)
    assert labels.shape == (2, 19, 19)
    assert set(np.unique(labels)) <= {0, 1, 2, IGNORE}


def probabilities(change: float = 0.0, wrong: int = 0) -> dict[str, np.ndarray]:
    labels = np.zeros((10, 10), int)
    labels.flat[:wrong] = 1
    return {"probabilities": np.full((3, 2, 2), 0.5) + change, "labels": labels}


def test_agreement_by_hand():
    found = side_by_side.check_agreement(probabilities(), probabilities(0.004, wrong=1))
    assert found == pytest.approx({"largest_difference": 0.004, "equal_labels": 0.99})
    with pytest.raises(RuntimeError, match=r"do not agree.*would be of different work"):
        side_by_side.check_agreement(probabilities(), probabilities(0.02))
    with pytest.raises(RuntimeError, match="do not agree"):
        side_by_side.check_agreement(probabilities(), probabilities(wrong=2))
    side_by_side.check_agreement(probabilities(), probabilities(0.02), "bfloat16")
    losses = {"loss": np.asarray(2.0), "gradient_norm": np.asarray(10.0)}
    other = {"loss": np.asarray(2.002), "gradient_norm": np.asarray(9.95)}
    assert side_by_side.check_agreement(losses, other) == pytest.approx({"loss": 0.001, "gradient_norm": 0.005})
    with pytest.raises(RuntimeError, match="do not agree"):
        side_by_side.check_agreement(losses, losses | {"loss": np.asarray(2.1)})


def test_turns_alternate_and_ratios(monkeypatch, tmp_path, capsys):
    turns = []

    def fake(program, job, folder):
        turns.append((program, job.count_flops, bool(job.answer)))
        if job.answer:
            np.savez(job.answer, **probabilities())
        slow = program == "published"
        return {
            "seconds": [6.0, 8.0] if slow else [2.0, 2.0],
            "processor_seconds": [12.0, 15.0] if slow else [3.0, 3.0],
            "peak_bytes": 8e9 if slow else 2e9,
            "flops": (4e12 if slow else 1e12) if job.count_flops else None,
            "versions": {"torch": "2"} if slow else {"jax": "1"},
        }

    monkeypatch.setattr(side_by_side, "turn", fake)
    output = tmp_path / "results.json"
    command = [
        "--program",
        str(tmp_path),
        "--work",
        "whole",
        "--classes",
        "3",
        "--weights",
        "some.pth",
        "--rounds",
        "2",
    ]
    assert side_by_side.main([*command, "--output", str(output)]) == 0
    assert turns == [
        ("published", True, True),
        ("ours", True, True),
        ("published", False, False),
        ("ours", False, False),
    ]
    (record,) = results_file.read(output)
    assert record["times_faster"] == 3.5
    assert record["times_less_processor_time"] == 4.5
    assert record["times_faster_each_round"] == [3.5, 3.5]
    assert record["memory_share"] == 0.25
    assert record["flops_share"] == 0.25
    assert record["settings"]["names"] == 3
    assert record["versions"] == {"torch": "2", "jax": "1"}
    assert (
        "side_by_side_whole: 3.50 times faster (7 s and 2 s), 4.50 times less processor time, 0.25 of the peak memory"
        in capsys.readouterr().out
    )


def test_other_forms_of_the_published_model_take_their_turns(monkeypatch, tmp_path, capsys):
    turns = []
    seconds = {"eager": 8.0, "compiled": 6.0, "onnxruntime": 5.0}

    def fake(program, job, folder):
        turns.append((program, job.work, job.runner))
        if job.runner == "export":
            return {}
        if job.answer:
            wrong = {"loss": np.asarray(1.0), "gradient_norm": np.asarray(2.0)}
            np.savez(job.answer, **(wrong if job.work == "training" else probabilities()))
        took = 2.0 if program == "ours" else seconds[job.runner]
        found = {
            "seconds": [took],
            "processor_seconds": [2 * took],
            "peak_bytes": took * 1e9,
            "versions": {program: "1"},
        }
        return found | ({"compile_seconds": 30.0} if job.runner == "compiled" else {})

    monkeypatch.setattr(side_by_side, "turn", fake)
    monkeypatch.setattr(side_by_side, "_check_tools", lambda options: None)
    output = tmp_path / "results.json"
    command = ["--program", str(tmp_path), "--weights", "some.pth", "--rounds", "2", "--output", str(output)]
    assert side_by_side.main([*command, "--work", "training", "whole", "--compile", "max-autotune", "--onnx"]) == 0
    in_training = [("published", "eager"), ("compiled", "compiled"), ("ours", "eager")] * 2
    in_inference = [("published", "eager"), ("compiled", "compiled"), ("onnxruntime", "onnxruntime"), ("ours", "eager")]
    assert [(work, program, runner) for program, work, runner in turns] == [
        *(("training", *one) for one in in_training),
        ("whole", "published", "export"),
        *(("whole", *one) for one in in_inference * 2),
    ]
    training, whole = results_file.read(output)
    assert list(training["peers"]) == ["compiled"]
    assert training["peers"]["compiled"]["times_faster"] == 3.0
    assert (training["peers"]["compiled"]["mode"], training["peers"]["compiled"]["compile_seconds"]) == (
        "max-autotune",
        [30.0, 30.0],
    )
    assert whole["peers"]["onnxruntime"]["times_faster"] == 2.5
    assert whole["peers"]["onnxruntime"]["agreement"] == {"largest_difference": 0.0, "equal_labels": 1.0}
    assert whole["peers"]["onnxruntime"]["memory_share"] == 0.4
    assert (whole["times_faster"], set(whole["versions"])) == (4.0, {"published", "compiled", "onnxruntime", "ours"})
    assert not {"runner", "mode", "exported"} & set(whole["settings"])
    assert "2.50 times faster than onnxruntime (5 s)" in capsys.readouterr().out


def test_missing_tools_are_named_before_anything_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(side_by_side, "turn", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(side_by_side.shutil, "which", lambda name: None)
    monkeypatch.setattr(side_by_side.importlib.util, "find_spec", lambda name: None)
    command = ["--program", str(tmp_path), "--weights", "some.pth", "--output", str(tmp_path / "r")]
    assert side_by_side.main([*command, "--compile"]) == 1
    assert "needs a C++ compiler, and there is none of g++, clang++" in capsys.readouterr().err
    assert side_by_side.main([*command, "--onnx"]) == 1
    assert "--onnx needs onnx and onnxruntime: pip install -e '.[onnx]'" in capsys.readouterr().err


def test_failing_program_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(side_by_side.PROGRAMS, "published", "benchmarks.published.no_such_module")
    command = ["--program", str(tmp_path), "--work", "whole", "--weights", "some.pth", "--output", str(tmp_path / "r")]
    assert side_by_side.main(command) == 1
    message = capsys.readouterr().err
    assert "published, whole: exit status 1" in message
    assert "no_such_module" in message
