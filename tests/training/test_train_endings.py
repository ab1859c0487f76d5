"""How a training ends: signals at awkward moments, and places that do not answer."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from ahs_seg_jax.checkpoints import store
from ahs_seg_jax.devices import stopping
from ahs_seg_jax.errors import Ending
from ahs_seg_jax.evaluation import run
from ahs_seg_jax.training import train
from tests.support import ROOT
from tests.support.training import after_batches, experiment


def test_results_that_cannot_be_written_yet_hold_up_no_step(stand_in, tmp_path, monkeypatch):
    later, went_on, write = threading.Event(), [], run.write_files

    def slow(*args):
        went_on.append(later.wait(60))
        write(*args)

    monkeypatch.setattr(run, "write_files", slow)
    after_batches(monkeypatch, 3, later.set)
    assert train.train(experiment(steps=4, eval_every=2), tmp_path) is Ending.FINISHED
    assert went_on == [True, True]
    results = sorted(path.name for path in (tmp_path / "results").glob("*.json"))
    assert results == ["scenes_val_000002.json", "scenes_val_000004.json"]


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, Ending.PREEMPTED), (signal.SIGINT, Ending.INTERRUPTED)]
)
def test_signal_while_orbax_is_asked_about_preemption_is_not_forgotten(
    stand_in, tmp_path, monkeypatch, capsys, number, ending
):
    def asked(_store, step):
        if step == 2:
            signal.raise_signal(number)
        return False

    monkeypatch.setattr(store.CheckpointStore, "reached_preemption", asked)
    assert train.train(experiment(), tmp_path) is ending
    assert "stopped at step 2; the same command" in capsys.readouterr().out


def test_interrupt_that_a_finaliser_swallows_still_stops():
    with stopping.StopRequest() as stop, stop.at_once(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stop.received
    assert stop.ending is Ending.INTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "stop", "code"), [(10, False, 2), (400, True, Ending.PREEMPTED)])
def test_last_save_that_cannot_make_its_directory_leaves_no_process_behind(tmp_path, steps, stop, code):
    command = [sys.executable, "-u", "-m", "tests.support.train_worker", f"--workdir={tmp_path}", "--step_seconds=0.5"]
    command += [f'--run={{"steps": {steps}, "checkpoint_every": 0}}']
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        while process.stdout.readline() not in ("did step 1\n", ""):
            pass
        (tmp_path / "checkpoints").rmdir()
        (tmp_path / "checkpoints").write_text("a file in the way")
        if stop:
            process.send_signal(signal.SIGTERM)
        try:
            printed, _ = process.communicate(timeout=240)  # Orbax's threads wait for 300 s for that directory
        finally:
            process.kill()
    assert process.returncode == code, printed
    assert "the last checkpoint could not be saved" in printed
