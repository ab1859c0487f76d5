"""Paths on gs://, against a stand-in for Google's service on this machine; and what is refused with a remedy."""

import importlib.util
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.errors import CheckpointError, Ending
from ahs_seg_jax.storage import answering, paths
from tests.support import ROOT, buckets, trees
from tests.support.commands import data_command
from tests.support.training import experiment

WORKDIR = "gs://bucket/runs/one"
BUSY = "Malformed StorageGeneration"


def test_location_keeps_both_slashes(tmp_path):
    assert str(paths.location("gs://bucket/a") / "b") == "gs://bucket/a/b"
    assert paths.location(tmp_path) == tmp_path
    assert isinstance(paths.location("here"), pathlib.Path)
    paths.check(tmp_path / "nowhere yet", "the workdir")  # a disk is looked at by whoever writes there


def test_other_services_are_refused():
    with pytest.raises(
        ValueError, match=r"the workdir is s3://a/b; it can be a folder on a disk, or gs://bucket/folder"
    ):
        paths.check("s3://a/b", "the workdir")


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gs:// needs gcsfs: pip install 'ahs_seg_jax\[gcs\]'"):
        paths.check(WORKDIR, "the workdir")
    with pytest.raises(CheckpointError, match="the checkpoint is gs://bucket/runs/one, and gs:// needs gcsfs"):
        pretrained.load_pretrained(WORKDIR)


def test_bucket_that_cannot_be_reached_is_said_with_the_cause(monkeypatch):
    def refuse(self, pattern):
        raise PermissionError("no access to bucket")

    monkeypatch.setattr(type(paths.location("gs://bucket")), "glob", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        ValueError, match=r"cannot be reached \(PermissionError: no access to bucket\); look at the bucket"
    ):
        paths.check(WORKDIR, "the workdir")


def test_single_images_on_gs_are_refused_with_the_remedy(capsys):
    settings = experiment().data
    with pytest.raises(ValueError, match=r"data.root is gs://bucket/streets, .*copy it here .*or mount the bucket"):
        open_source(type(settings)(name="folder", root="gs://bucket/streets"), "train")
    assert data_command(["prepare", "voc_20", "--root", str(ROOT), "--to", "gs://bucket/data"]) == 2
    assert "--to is gs://bucket/data, but that is only" in capsys.readouterr().err


def test_place_that_does_not_answer_is_not_waited_for():
    free, errors = threading.Event(), []

    def ask():
        free.wait()
        if errors:
            raise errors[0]

    place = answering.Answering(ask)
    assert not place.within(0.01)
    assert place.cause == "no answer within 0.01 s"
    errors.append(ConnectionError("nobody there"))
    free.set()
    place._thread.join()  # it has tried for longer than anybody waited, as a client that tries again and again does
    free.clear()
    assert not place.within(0.02)
    assert place.cause == "no answer within 0.02 s, and before ConnectionError: nobody there"
    errors.clear()
    free.set()
    assert place.within(60)
    errors.append(ConnectionError("refused"))
    assert place.within(60)  # at once: whoever writes there hears it soon enough


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def environment():
    """The environment of processes whose gs:// is a server on this machine, with one empty bucket."""
    with buckets.google_cloud_storage() as found:
        yield found


def run(environment, code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LOOK = """
import sys
from etils import epath
from ahs_seg_jax.checkpoints import pretrained, store
workdir = epath.Path(sys.argv[1])
print(*sorted(path.name for path in workdir.iterdir()), *sorted(path.name for path in (workdir / "results").iterdir()))
print(store.load_params(workdir)[1]["step"], pretrained.load_pretrained(sys.argv[1]).manifest["source"]["path"])
"""


def stopped_at(step, command, environment):
    """What a training printed that was told to stop after this step, and its exit code."""
    printed = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            printed += line
            if line == f"did step {step}\n":
                process.send_signal(signal.SIGTERM)
    return printed, process.returncode


def one_try(environment, workdir):
    """Stops a run of 60 steps there soon after its third and continues it; None if one of its last saves failed.

    A busy stand-in now and then answers without an object's generation, which TensorStore takes for an error.
    """
    command = [sys.executable, "-u", "-m", "tests.support.train_worker", f"--workdir={workdir}"]
    command += ['--run={"steps": 60, "checkpoint_every": 20}']
    printed, code = stopped_at(3, [*command, "--step_seconds=0.5"], environment)  # a late signal is still in time
    assert code == Ending.PREEMPTED, printed
    stopped = re.search(r"stopped at step (\d+); the same command .* continues from there", printed)
    if not stopped and BUSY in printed:
        return None
    assert stopped, printed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 2 and BUSY in done.stderr:
        return None
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing after step {stopped[1]} of 60" in done.stdout
    return run(environment, LOOK, workdir).splitlines()


@pytest.mark.slow
def test_run_on_gs_is_stopped_and_continued(environment):
    for number in range(4):
        workdir = f"gs://bucket/runs/{number}"
        if seen := one_try(environment, workdir):
            break
    assert seen, "the last saves of four runs failed"
    names, loaded = seen
    assert names.startswith("checkpoints pictures results tensorboard scenes_val_000060.json")  # the lock is gone
    assert loaded == f"60 {workdir}"


READ = """
import pathlib, sys
import numpy as np
from etils import epath
from ahs_seg_jax.config import DataConfig
from ahs_seg_jax.data.catalogue import open_source
here = pathlib.Path(sys.argv[1])
for file in here.rglob("*"):
    if file.is_file():
        epath.Path(file).copy(f"gs://bucket/data/{file.relative_to(here)}")
one, other = (open_source(DataConfig(name="voc_20", root=root), "val") for root in (str(here), "gs://bucket/data"))
assert one.fingerprint() == other.fingerprint()
for index in range(len(one)):
    for part in ("image", "label"):
        np.testing.assert_array_equal(one[index][part], other[index][part])
print(len(other), other.name(1))
"""


@pytest.mark.slow
def test_prepared_benchmark_on_gs_is_read(environment, tmp_path):
    trees.voc(tmp_path, {f"2007_{k:06d}": trees.rows([0, k, 20, 255]) for k in range(1, 4)})
    trees.prepared(BENCHMARKS["voc_20"], tmp_path)
    assert run(environment, READ, str(tmp_path)).split() == ["3", "2007_000002"]


PAUSE = """
import os, signal
import numpy as np
from etils import epath
from ahs_seg_jax.training.monitor import Monitor
monitor, server = Monitor("gs://bucket/curves", 9, 0, 1), int(os.environ["STAND_IN"])
monitor.scalars(1, {"loss": 1.0})
monitor.picture(1, "val", np.zeros((4, 5, 3), np.uint8))
assert monitor.writer.wait(60)
os.kill(server, signal.SIGSTOP)
try:
    monitor.picture(2, "val", np.zeros((4, 5, 3), np.uint8))
    monitor.scalars(2, {"loss": 2.0})
    print("went on", monitor.writer.wait(0.5))
finally:
    os.kill(server, signal.SIGCONT)
monitor.close()
print(*sorted(path.name for path in epath.Path("gs://bucket/curves/pictures").iterdir()))
"""


@pytest.mark.slow
def test_bucket_that_does_not_answer_holds_up_no_picture(environment):
    went_on, pictures = run(environment, PAUSE).splitlines()
    assert went_on == "went on False"
    assert pictures == "val_000001.png val_000002.png"
