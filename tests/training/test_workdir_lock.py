"""One run to a workdir: the second is refused by name, and what a dead one left is taken over."""

import json
import os
import subprocess
import sys
import time

import pytest

from ahs_seg_jax.training import workdir_lock
from ahs_seg_jax.training.workdir_lock import WorkdirInUse, WorkdirLock


def owner(path):
    return json.loads((path / "run.lock").read_text())


def test_lock_is_there_while_the_run_is(tmp_path):
    with WorkdirLock(tmp_path / "new"):
        assert owner(tmp_path / "new")["pid"] == os.getpid()
    assert not list((tmp_path / "new").iterdir())


def test_second_run_is_refused_and_the_first_keeps_its_lock(tmp_path):
    with WorkdirLock(tmp_path):
        with pytest.raises(
            WorkdirInUse, match=rf"being trained in by process {os.getpid()} on .*choose another workdir"
        ):
            WorkdirLock(tmp_path).__enter__()
        assert owner(tmp_path)["pid"] == os.getpid()


def test_lock_of_a_killed_process_is_taken_over(tmp_path, capsys):
    code = (
        "import sys, time; from ahs_seg_jax.training.workdir_lock import WorkdirLock\n"
        "WorkdirLock(sys.argv[1]).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WorkdirInUse, match=f"by process {holder.pid} on"):
            WorkdirLock(tmp_path).__enter__()
        holder.kill()
        holder.wait()
    with WorkdirLock(tmp_path):
        assert f"process {holder.pid} on" in capsys.readouterr().out


def foreign(path, beats):
    lock = {"host": "other", "pid": 7, "started": "1", "machine": "other", "token": "x", "beats": beats}
    (path / "run.lock").write_text(json.dumps(lock))


def test_lock_of_another_machine_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lock, "TIMEOUT", 0.3)
    foreign(tmp_path, 3)
    with WorkdirLock(tmp_path):  # nobody raises the count
        assert owner(tmp_path)["pid"] == os.getpid()
    assert "watching for 0.3 s whether that run is alive" in capsys.readouterr().out

    foreign(tmp_path, 3)
    monkeypatch.setattr("time.sleep", lambda _: foreign(tmp_path, 4))
    with pytest.raises(WorkdirInUse, match="by process 7 on other"):
        WorkdirLock(tmp_path).__enter__()


def test_half_written_lock_is_nobodys(tmp_path):
    (tmp_path / "run.lock").write_text('{"host": ')
    with WorkdirLock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_owner_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "BEAT", 0.01)
    with WorkdirLock(tmp_path):
        before, end = owner(tmp_path)["beats"], time.monotonic() + 60
        while owner(tmp_path)["beats"] < before + 2:
            assert time.monotonic() < end, "the owner has shown no sign of life for 60 s"
            time.sleep(0.01)
