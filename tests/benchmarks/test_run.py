"""What is run, what is skipped, what is kept."""

import dataclasses
import json

import pytest

from ahs_seg_jax.models import architecture
from benchmarks import registry, results_file, run
from benchmarks.settings import Settings, complete


def test_defaults_by_size_and_machine():
    tiny = complete(Settings(), "cpu")
    assert (tiny.batch, tiny.train_classes, tiny.classes, tiny.crop, tiny.class_chunk) == (4, 20, 20, 64, 0)
    large = complete(Settings(size="vitb16"), "cpu")
    assert (large.batch, large.train_classes, large.classes, large.crop) == (1, 171, 150, 384)
    assert (large.class_chunk, large.remat) == (9, "cheap")
    assert large.model().class_chunk == 9
    assert large.model().remat == "cheap"
    on_gpu = complete(Settings(size="vitb16"), "gpu")
    assert (on_gpu.batch, on_gpu.class_chunk) == (16, 19)
    assert complete(Settings(size="vitb16"), "cpu", devices=8).batch == 8
    chosen = complete(Settings(size="vitb16", batch=3, class_chunk=0, remat="none"), "cpu")
    assert (chosen.batch, chosen.class_chunk, chosen.remat) == (3, 0, "none")
    assert Settings.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_image_series_is_valid_for_every_size():
    for size in architecture.PRESETS:
        for name in registry.chosen(["scaling_image_*"]):
            model = registry.ALL[name].settings(Settings(size=size)).model()
            assert model.problems() == []
            assert model.grid == model.aggregator.window * round(registry.ALL[name].amount ** 0.5)


def test_names_and_patterns():
    assert registry.chosen([]) == list(registry.ALL)
    assert registry.chosen(["part_d*", "train_step"]) == ["train_step", "part_decoder"]
    assert len(registry.chosen([], quick=True)) < len(registry.ALL)
    assert set(registry.MAIN) <= set(registry.chosen([], quick=True))
    with pytest.raises(ValueError, match="no benchmark matches 'nothing'"):
        registry.chosen(["nothing"])


def finished(name, asked, timeout):
    record = {
        "name": name,
        "settings": asked,
        "seconds": {"median": 2.0, "quartiles": [1.0, 3.0]},
        "throughput": 0.5,
        "unit": "images",
        "peak_memory": {"process_bytes": 1e9},
    }
    return record if name != "part_decoder" else {"name": name, "settings": asked, "error": "exit status 1\nboom"}


def test_stopped_run_goes_on(monkeypatch, tmp_path, capsys):
    ran = []
    monkeypatch.setattr(run, "_run", lambda name, *rest: ran.append(name) or finished(name, *rest))
    command = ["--only", "train_update", "part_decoder", "--output", str(tmp_path / "results.json")]
    assert run.main(command) == 1
    assert ran == ["train_update", "part_decoder"]
    assert run.main(command) == 1
    assert ran[2:] == ["part_decoder"], "what failed is tried again, what is done is not"
    assert run.main([*command, "--dtype", "bfloat16"]) == 1
    assert ran[3:] == ["train_update", "part_decoder"], "other settings are another measurement"
    assert run.main([*command, "--again"]) == 1
    assert ran[5:] == ["train_update", "part_decoder"]
    assert len(results_file.read(tmp_path / "results.json")) == 4
    printed = capsys.readouterr().out
    assert "[1/2] train_update 2 s (1 to 3), 0.5 images/s, 1.00 GB" in printed
    assert "[1/2] train_update done before" in printed
    assert "part_decoder FAILED: boom" in printed


def test_worker_of_a_benchmark_without_compiling(tmp_path):
    output = tmp_path / "results.json"
    assert run.main(["--only", "data_pipeline", "--batch", "2", "--repetitions", "2", "--output", str(output)]) == 0
    (record,) = results_file.read(output)
    assert record["throughput"] > 0
    assert record["settings"]["batch"] == 2
    assert record["settings"]["crop"] == 64
    assert {"hardware", "versions", "code", "mesh", "date", "ceiling", "peak_memory", "compiles"} <= set(record)


def test_failure_is_kept_with_its_cause(monkeypatch, tmp_path):
    monkeypatch.setitem(registry.ALL, "unknown", dataclasses.replace(registry.ALL["train_step"]))
    output = tmp_path / "results.json"
    assert run.main(["--only", "unknown", "--output", str(output)]) == 1  # the worker's registry has no such name
    (record,) = results_file.read(output)
    assert record["error"].startswith("exit status 1")
    assert "KeyError: 'unknown'" in record["error"]
