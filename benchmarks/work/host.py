"""What the host does while the devices compute: it reads training batches and writes checkpoints."""

import tempfile
import time
from typing import Any

import jax

from ahs_seg_jax.checkpoints.store import CheckpointStore
from ahs_seg_jax.config import DataConfig, ScenesConfig
from ahs_seg_jax.data import catalogue
from ahs_seg_jax.data.pipeline import train_batches
from ahs_seg_jax.training import step
from benchmarks import inputs
from benchmarks.measure import Action, Record, spread
from benchmarks.settings import Settings

BATCHES_A_CALL = 8


def data_pipeline(settings: Settings) -> Action:
    """Makes training batches of drawn scenes (drawing, augmentation, batching) in the default number of threads."""
    data = DataConfig(scenes=ScenesConfig(size=max(96, settings.crop)))
    batches = train_batches(
        catalogue.open_source(data, "train"),
        crop=settings.crop,
        augment=data.augment,
        batch_size=settings.batch,
        seed=0,
        num_threads=data.num_threads,
        prefetch=data.prefetch,
    )

    def call(_: int) -> Any:
        return [next(batches)["index"] for _ in range(BATCHES_A_CALL)]

    return Action(call, BATCHES_A_CALL * settings.batch, "images")


def checkpoint_save(settings: Settings) -> Record:
    """Saves a training state: how long the training waits, and how long it takes until the state is on the disk."""
    experiment = inputs.experiment(settings)
    state = jax.device_put(step.create_state(inputs.parameters(experiment.model), experiment.train))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    waited, written = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, keep=1)
        for number in range(1 + min(settings.repetitions, 5)):
            started = time.perf_counter()
            store.save(number, state, {"note": "benchmark"})
            waited.append(time.perf_counter() - started)
            store.finish()
            written.append(time.perf_counter() - started)
        store.close()
    found = spread(written[1:])
    return {
        "seconds": found,
        "seconds_waited": spread(waited[1:]),
        "items": size / 1e6,
        "unit": "MB",
        "throughput": size / 1e6 / found["median"],
        "flops": None,
    }
