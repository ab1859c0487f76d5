"""The table of speeds by processors: which numbers, what is printed and written, and one process with one processor."""

import json
import os

import pytest
from typer.testing import CliRunner

from ahs_seg_jax import threads
from ahs_seg_jax.cli import app, scaling


@pytest.mark.parametrize(
    ("cores", "numbers"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32]), (96, None)]
)
def test_numbers_of_processors(cores, numbers):
    assert scaling.amounts(cores) == (numbers or [1, 2, 4, 8, 16, 32, 64, 96])


def test_table_and_file(monkeypatch, tmp_path):
    asked = []

    def measured(model, count, repetitions):
        asked.append((model, count, repetitions))
        return {"median": 3.0 / count, "passes": count, "chunk": 6, "peak_bytes": 2.5e9, "processors": count}

    monkeypatch.setattr(threads, "cores", lambda: 6)
    monkeypatch.setattr(scaling, "_measured", measured)
    file = tmp_path / "scaling.json"
    done = CliRunner().invoke(app.app, ["benchmark", "--scaling", "--repetitions", "5", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert asked == [(m, n, r) for m, r in (("tiny", 5), ("vitb16", 3)) for n in (1, 2, 4, 6)]
    lines = done.output.splitlines()
    assert f"6 of {os.cpu_count()} processors" in lines[0]
    assert "jaxlib " in lines[1]
    assert "| vitb16 | 150 | 4 | 4 | 6 | 750.0 ms | 4.00 | 2.50 GB |" in lines
    assert len(json.loads(file.read_text())["rows"]) == 8


def test_it_takes_no_model_of_the_users():
    command = ["benchmark", "--scaling", "--model", "vitb16", "--class-count", "7", "--json", "x.json"]
    done = CliRunner().invoke(app.app, command)
    assert done.exit_code == 2
    said = " ".join(done.output.replace("│", " ").split())
    assert "--scaling has models and pictures of its own; leave out --model, --class-count" in said


def test_what_fails_is_said(monkeypatch):
    monkeypatch.setattr(scaling, "NAMES", {"no such model": 3})
    with pytest.raises(OSError, match=r"no such model on 1 processor\(s\) ended with exit status 1"):
        scaling._measured("no such model", 1, 1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen on this system")
def test_a_process_with_one_processor():
    found = scaling._measured("tiny", 1, 1)
    assert (found["processors"], found["passes"], len(found["seconds"])) == (1, 1, 1)
    assert 0 < found["median"] < found["first"]
