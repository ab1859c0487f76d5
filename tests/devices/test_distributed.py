"""Several real processes over loopback, two devices each: same results as one, and what happens when one is lost."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ahs_seg_jax.checkpoints import store
from ahs_seg_jax.devices import distributed
from ahs_seg_jax.errors import Ending, InputError
from tests.support import ROOT
from tests.support.processes import free_port
from tests.support.xla_flags import xla_flags

RUN = {"steps": 6, "checkpoint_every": 2}
# With steps of 0.2 s a signal comes in time even where a busy machine sends it five seconds late.
LONG = {"steps": 30, "checkpoint_every": 2}
SLOW = "--step_seconds=0.2"


class Processes:
    """Processes of one run; their output goes to files."""

    def __init__(self, folder: pathlib.Path, workdir: pathlib.Path, count: int, devices: int, timeout: float = 60.0):
        self.port, self.count, self.folder, self.workdir = free_port(), count, folder, workdir
        self.devices, self.timeout = devices, timeout
        self.running: dict[int, subprocess.Popen] = {}
        folder.mkdir(exist_ok=True)

    def start(self, *numbers: int, flags: tuple[str, ...] = (), run: dict | None = None) -> "Processes":
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = xla_flags(self.devices)
        for number in numbers:
            command = [sys.executable, "-u", "-m", "tests.support.train_worker", f"--workdir={self.workdir}"]
            command += [f"--run={json.dumps(run or RUN)}", f"--process_timeout={self.timeout}", *flags]
            if self.count > 1:
                command += [f"--coordinator=127.0.0.1:{self.port}", f"--num_processes={self.count}"]
                command += [f"--process_id={number}"]
            with (self.folder / f"{number}.log").open("w") as log:
                self.running[number] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        return self

    def printed(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    def wait_for(self, number: int, words: str) -> None:
        while words not in self.printed(number):
            assert self.running[number].poll() is None, self.printed(number)
            time.sleep(0.05)

    def codes(self) -> dict[int, int]:
        return {number: process.wait(600) for number, process in self.running.items()}


@pytest.fixture
def processes(tmp_path):
    """Makes `Processes`, and ends them after the test."""
    made: list[Processes] = []

    def make(name: str, count: int, devices: int = 2, **options) -> Processes:
        made.append(Processes(tmp_path / f"{name}_logs", tmp_path / "run" / name, count, devices, **options))
        return made[-1]

    yield make
    for group in made:
        for process in group.running.values():
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()


def losses(printed: str) -> list[str]:
    return re.findall(r"(?m)^step \d+/\d+  total \S+", printed)


def assert_same_weights(one: pathlib.Path, other: pathlib.Path) -> None:
    first, second = (store.load_params(path)[0] for path in (one, other))
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(first["aggregator"][name], second["aggregator"][name], rtol=1e-4, atol=1e-5)


def test_one_process_needs_no_flags_and_agrees_with_itself():
    distributed.join()
    assert distributed.exchange("anything", "text") == ["text"]
    distributed.agree("facts", {"a": 1})
    with pytest.raises(InputError, match="no"):
        distributed.together("something", lambda: (_ for _ in ()).throw(InputError("no")))
    with distributed.Watch():
        pass


@pytest.mark.parametrize(
    ("values", "text"),
    [
        *(({"timeout": t}, f"--process_timeout is {t}; it must be a number") for t in (float("nan"), -1.0, 0.0, 1e300)),
        ({"coordinator": "nowhere"}, "--coordinator is 'nowhere'; it must be host:port"),
        ({"num_processes": 0}, "--num_processes is 0; it must be at least 1"),
        ({"process_id": 2}, "--process_id is 2; processes are counted from 0 to 1"),
        ({"process_id": -1}, "--process_id is -1; processes are counted from 0 to 1"),
        ({"coordinator": None}, "--coordinator must be given too"),
    ],
)
def test_values_that_no_run_has_are_refused_before_anybody_waits(values, text):
    given = {"coordinator": "127.0.0.1:9", "num_processes": 2, "process_id": 1, "timeout": 9.0}
    with pytest.raises(InputError, match=re.escape(text)):
        distributed.join(**(given | values))


@pytest.mark.slow
def test_several_processes_train_and_score_like_one(processes):
    count = 4
    run = RUN | {"batch_size": 2 * count}
    one = processes("one", 1, devices=2 * count).start(0, run=run)
    several = processes("several", count).start(*range(count), flags=('--mesh={"fsdp": 2}',), run=run)
    assert one.codes() == {0: 0}, one.printed(0)
    assert several.codes() == dict.fromkeys(range(count), 0), "".join(map(several.printed, range(count)))
    assert losses(one.printed(0)) == losses(several.printed(0))
    assert len(losses(several.printed(0))) == RUN["steps"]
    assert not losses("".join(map(several.printed, range(1, count))))  # only the first process reports
    announced = f"in {count} process(es) (mesh: data {count}, fsdp 2), batch {2 * count} (1 a device)"
    assert announced in several.printed(0)
    assert_same_weights(one.workdir, several.workdir)
    results = [
        json.loads((group.workdir / "results" / "scenes_val_000006.json").read_text()) for group in (one, several)
    ]
    for part in ("scores", "classes"):  # of the whole set, to the last digit
        assert results[0][part] == results[1][part]


@pytest.mark.slow
def test_killed_process_is_named_and_the_restart_continues(processes):
    whole = processes("whole", 1, devices=4).start(0, run=LONG)
    parts = processes("parts", 2, timeout=10.0).start(0, 1, flags=(SLOW,), run=LONG)
    parts.wait_for(0, "did step 3\n")
    parts.running[1].kill()
    assert parts.codes() == {0: Ending.PREEMPTED, 1: -signal.SIGKILL}, parts.printed(0)
    assert re.search(r"error: process 1 on \S+ has shown no sign of life for 10 s. The check", parts.printed(0))
    again = Processes(parts.folder, parts.workdir, 2, 2)
    parts.running = again.start(0, 1, run=LONG).running
    assert parts.codes() == {0: 0, 1: 0}, parts.printed(0)
    assert re.search(r"continuing after step \d+ of 30", parts.printed(0))
    assert whole.codes() == {0: 0}
    assert_same_weights(whole.workdir, parts.workdir)


@pytest.mark.slow
def test_preemption_notice_to_one_stops_all_after_the_same_step(processes):
    run = {"steps": 400, "checkpoint_every": 0}
    group = processes("run", 2).start(0, 1, flags=(SLOW,), run=run)
    group.wait_for(0, "did step 3\n")
    group.running[1].send_signal(signal.SIGTERM)
    assert group.codes() == {0: Ending.PREEMPTED, 1: Ending.PREEMPTED}, group.printed(0) + group.printed(1)
    stopped = re.search(r"stopped at step (\d+);", group.printed(0))
    assert stopped
    assert (group.workdir / "checkpoints" / stopped[1]).is_dir()


@pytest.mark.slow
def test_saved_on_eight_devices_continues_on_one_and_on_two_processes_of_four(processes):
    flags = ('--mesh={"fsdp": 2, "classes": 2}', SLOW)
    eight = processes("eight", 1, devices=8).start(0, flags=flags, run=LONG)
    eight.wait_for(0, "did step 2\n")
    eight.running[0].send_signal(signal.SIGTERM)
    assert eight.codes() == {0: Ending.PREEMPTED}
    one, two = processes("one", 1, devices=1), processes("two", 2, devices=4)
    for group in (one, two):
        shutil.copytree(eight.workdir, group.workdir)
    one.start(0, run=LONG)
    two.start(0, 1, flags=('--mesh={"fsdp": 4, "classes": 2}',), run=LONG)
    assert {**one.codes(), **two.codes()} == {0: 0, 1: 0}, two.printed(0) + two.printed(1)
    for group in (one, two):
        assert re.search(r"continuing after step \d+ of 30", group.printed(0))
    assert_same_weights(one.workdir, two.workdir)


@pytest.mark.slow
def test_processes_that_differ_are_refused_by_field(processes):
    group = processes("run", 2).start(0).start(1, flags=("--seed=3",))
    assert group.codes() == {0: 2, 1: 2}
    for number in (0, 1):
        assert re.search(r"process 1 on \S+: seed is 3, process 0 has 0", group.printed(number))


@pytest.mark.slow
def test_process_that_does_not_come_is_named(processes):
    group = processes("run", 2, timeout=3.0).start(0)
    assert group.codes() == {0: 2}
    assert re.search("error: process 1 of 2 did not come within 3 s; look at", group.printed(0))
