"""A training as a process of its own: it is gone when it has ended, with the exit code that it promises."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from ahs_seg_jax.resume import Ending

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "stop", "code"), [(10, False, 2), (400, True, Ending.PREEMPTED)])
def test_last_save_that_cannot_make_its_directory_leaves_no_process_behind(tmp_path, steps, stop, code):
    command = [sys.executable, "-u", "-m", "tests.train_worker", f"--workdir={tmp_path}", "--step_seconds=0.5"]
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
            printed, _ = process.communicate(timeout=120)  # Orbax's threads wait for 300 s for that directory
        finally:
            process.kill()
    assert process.returncode == code, printed
    assert "the last checkpoint could not be saved" in printed
