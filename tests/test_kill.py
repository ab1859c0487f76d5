"""A run that is killed at random moments loses nothing: the script that shows it, with three kills."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_three_kills_lose_nothing():
    command = [sys.executable, "scripts/kill_test.py", "--kills", "3", "--step-seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills; all" in done.stdout
    assert "bit for bit" in done.stdout
