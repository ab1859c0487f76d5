"""A training run with the stand-in model, as a program: for tests that kill it, or run several processes of it.

python -m tests.support.train_worker --workdir=... [--run=..] [--step_seconds=..] [--save_seconds=..]
    [ahs_seg_jax.main's flags]
"""

import dataclasses
import json
import os
import sys
import threading
import time

from absl import app, flags

from ahs_seg_jax import main as program
from ahs_seg_jax.config import training
from ahs_seg_jax.models import ahs_seg
from ahs_seg_jax.training import monitor, train
from tests.support.small import small_model
from tests.support.standin import StandIn
from tests.support.training import experiment

_RUN = flags.DEFINE_string("run", "{}", "Fields of TrainConfig as JSON.")
_MESH = flags.DEFINE_string("mesh", "{}", "Fields of MeshConfig as JSON.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the run.")
_STEP_SECONDS = flags.DEFINE_float("step_seconds", 0.0, "Each step takes at least this long.")
_SAVE_SECONDS = flags.DEFINE_float("save_seconds", 0.0, "Each save takes so much longer.")


def slow_rename(original, seconds):
    """`os.rename` on a slow disk, outside the main thread. A checkpoint is complete when it is renamed."""

    def rename(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(seconds)
        original(*args, **kwargs)

    return rename


class Telling(monitor.Monitor):
    """Says each step that was done, also those between two reports."""

    def start(self, step, result):
        print(f"did step {step}", flush=True)
        super().start(step, result)


def slow_batches(original, seconds):
    """`train_batches` whose batches take so many seconds each."""

    class Slow:
        def __init__(self, *args, **kwargs):
            self.inner = original(*args, **kwargs)
            self.skipped = self.inner.skipped

        def __next__(self):
            time.sleep(seconds)
            return next(self.inner)

    return Slow


def main(_argv: list[str]) -> None:
    """Trains, with the exit codes of the real program."""
    ahs_seg.AHSSeg = StandIn
    if _STEP_SECONDS.value:
        train.train_batches = slow_batches(train.train_batches, _STEP_SECONDS.value)
    if _SAVE_SECONDS.value:
        os.rename = slow_rename(os.rename, _SAVE_SECONDS.value)
    train.Monitor = Telling
    described = experiment(small_model(adaptation="none"), **json.loads(_RUN.value))
    mesh = training.MeshConfig(**json.loads(_MESH.value))
    try:
        program.join(flags.FLAGS)
        run = dataclasses.replace(described, mesh=mesh, seed=_SEED.value)
        sys.exit(train.train(run, flags.FLAGS.workdir))
    except program.USER_ERRORS as error:
        program.fail(error)


if __name__ == "__main__":
    program.define_flags(flags.FLAGS)
    app.run(main)
