"""How a training ends: signals at awkward moments, and places that do not answer."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from ahs_seg_jax.checkpoints import store
from ahs_seg_jax.devices import huge_pages, stopping
from ahs_seg_jax.errors import Ending
from ahs_seg_jax.evaluation import run
from ahs_seg_jax.training import train
from tests.support import ROOT
from tests.support.training import after_batches, experiment
from tests.support.xla_flags import xla_flags


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


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, Ending.PREEMPTED), (signal.SIGINT, Ending.INTERRUPTED)]
)
@pytest.mark.parametrize("place", ["open_data", "start_state", "announce"])
def test_signal_before_the_first_step_ends_with_a_word(
    stand_in, tmp_path, monkeypatch, capsys, place, number, ending, lost
):
    original = getattr(train, place)

    def signalled(*args):
        with contextlib.suppress(*[KeyboardInterrupt] if lost else []):  # as a finaliser does
            signal.raise_signal(number)
        return original(*args)

    monkeypatch.setattr(train, place, signalled)
    assert train.train(experiment(), tmp_path) is ending
    printed = capsys.readouterr().out
    assert (
        "stopped at step 0, and there is no checkpoint" if lost else "stopped before the first step; the"
    ) in printed
    assert "first step:" not in printed
    assert not (tmp_path / "run.lock").exists()
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux which signals are handled")
@pytest.mark.parametrize("module", ["ahs_seg_jax.main", "ahs_seg_jax"])
@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGTERM, Ending.PREEMPTED), (signal.SIGINT, Ending.INTERRUPTED)]
)
def test_signal_while_the_program_is_imported(tmp_path, module, number, ending):
    command = [sys.executable, "-m", module, *(["train"] if module == "ahs_seg_jax" else [])]
    command += [f"--config={ROOT / 'configs/tiny.py'}", f"--workdir={tmp_path}"]
    environment = huge_pages.with_huge_pages()  # so that the program need not start again, with signals as they were
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 60
            while not handles(process.pid, signal.SIGTERM) and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said.splitlines()[-1]) == (
        ending,
        f"stopped by {number.name}; the same command continues from the newest checkpoint, if there is one",
    )
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def handles(pid, number):
    """Whether a process of this machine has a handler for a signal."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "stop", "code"), [(10, False, 2), (400, True, Ending.PREEMPTED)])
def test_last_save_that_cannot_make_its_directory_leaves_no_process_behind(tmp_path, steps, stop, code):
    command = [sys.executable, "-u", "-m", "tests.support.train_worker", f"--workdir={tmp_path}", "--step_seconds=0.5"]
    command += [f'--run={{"steps": {steps}, "checkpoint_every": 0}}']
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
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
