"""A run that is killed at random moments loses nothing: the script that shows it, with three kills."""

import subprocess
import sys

import pytest

from scripts import kill_test
from tests.support import ROOT


def test_a_start_may_go_back_by_the_interval_and_no_further():
    printed = "test: 1 x cpu in 1 process(es), batch 4, continuing after step 6 of 9\ndid step 7\n"
    assert kill_test.check_start(printed, before=6, reached=6 + kill_test.INTERVAL) == kill_test.INTERVAL
    assert kill_test.check_start("6 steps\n", before=0, reached=0) == 0
    with pytest.raises(kill_test.Failed, match="step 11 had been done, but the run went back to 6, by more than 4"):
        kill_test.check_start(printed, before=6, reached=11)
    with pytest.raises(kill_test.Failed, match="continued after step 6; the newest complete checkpoint is of step 8"):
        kill_test.check_start(printed, before=8, reached=8)


@pytest.mark.slow
def test_three_kills_lose_nothing():
    command = [sys.executable, "scripts/kill_test.py", "--kills", "3", "--step-seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills, none of which cost more than" in done.stdout
    assert "bit for bit" in done.stdout
