"""An experiment with the small model, and its training step by step."""

import functools

import jax
import numpy as np

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import AugmentConfig, DataConfig, EvalConfig, Experiment, ScenesConfig, TrainConfig
from ahs_seg_jax.data import pipeline
from ahs_seg_jax.devices.mesh import make_mesh, put_batch, put_replicated
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.training import step, train
from tests.support.small import CROP, small_model

CLASSES, LENGTH = 5, 8


def experiment(model: ModelConfig | None = None, **changes) -> Experiment:
    """Six steps on generated scenes; `changes` are of the training's settings."""
    settings = {"steps": 6, "batch_size": 4, "finetune": "scratch", "learning_rate": 1e-2, "clip_multiplier": 1.0}
    settings |= {"log_every": 1, "checkpoint_every": 4, "eval_every": 0, "picture_every": 0} | changes
    return Experiment(
        name="test",
        model=model or small_model(adaptation="none"),
        data=DataConfig(scenes=ScenesConfig(size=32, train_images=13, val_images=3), augment=AugmentConfig(flip=False)),
        train=TrainConfig(**settings),
        eval=EvalConfig(batch_size=4, limit=2, pictures=1),
    )


def batch(size: int = 4) -> dict[str, np.ndarray]:
    """Random images `[b, h, w, 3]`, labels `[b, h, w]` and numbers `[b]`."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, CROP, CROP, 3), np.uint8),
        "label": rng.integers(-1, CLASSES, (size, CROP, CROP)).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
    }


def tokens() -> np.ndarray:
    """One prompt of each class, padded: `[t, 1, n]`."""
    rows = np.zeros((CLASSES, 1, LENGTH), np.int32)
    rows[:, 0, :4] = [[49406, 320 + 7 * row, 530 + row, 49407] for row in range(CLASSES)]
    return rows


def run_steps(config: Experiment, steps: int = 2, devices=None, data=None, pairs=None):
    """(state, metrics of each step, compiled programs) from fresh parameters."""
    mesh = make_mesh(devices, config.mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, step.abstract_state(config, mesh))
    params, _ = starting.starting_params(config, mesh)
    state = jax.jit(functools.partial(step.create_state, train=config.train), out_shardings=shardings)(params)
    step_function = step.jitted_step(config, pairs, mesh, state)
    words = put_replicated(tokens(), mesh)
    history = []
    for number in range(steps):
        rows = data[number] if isinstance(data, list) else data or batch()
        state, metrics = step_function(state, put_batch(rows, mesh), words)
        history.append({name: np.asarray(value) for name, value in metrics.items()})
    return state, history, step_function._cache_size()


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *jax.device_get((a, b)))


def after_batches(monkeypatch, count: int, action) -> None:
    """Calls `action` when the run asks for its batch number `count` (from 0)."""
    original = pipeline.train_batches

    class Watched:
        def __init__(self, *args, **kwargs):
            self.inner, self.number = original(*args, **kwargs), kwargs["start_batch"]
            self.skipped: dict[str, int] = {}

        def __next__(self):
            if self.number == count:
                action()
            self.number += 1
            return next(self.inner)

    monkeypatch.setattr(train, "train_batches", Watched)
