"""One training step by equivalences, and whole runs: interrupted, continued, refused, stopped by what goes wrong."""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import initialise, optimizer, parallel, resume, train
from ahs_seg_jax.checkpoints import store
from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, InputError, TrainConfig, to_config_dict
from ahs_seg_jax.data.scenes import ScenesConfig
from ahs_seg_jax.data.sources import CorruptExample
from ahs_seg_jax.data.transforms import AugmentConfig
from ahs_seg_jax.models.architecture import AggregatorConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.monitor import NonFiniteLoss

CROP, CLASSES, LENGTH = 24, 5, 8


def small_model(**changes) -> ModelConfig:
    """Every part of the model, as small as it goes."""
    model = ModelConfig(
        image=ImageTowerConfig(layers=3, width=16, heads=2, patch_size=4, crop=CROP, pretrained_grid=6),
        text=TextTowerConfig(layers=1, width=16, heads=2, context=32),
        embed_dim=16,
        block_size=8,
        guidance_taps=(0, 1),
        mh_fpn_taps=(0, 1, 2),
        dc_hsp_rank=3,
        aggregator=AggregatorConfig(
            hidden=8,
            layers=1,
            heads=2,
            window=6,
            appearance_guidance=4,
            text_guidance=4,
            decoder=(16, 16),
            decoder_guidance=(4, 4),
            guidance_up=(8, 8),
            pad_len=8,
        ),
    )
    return model.replace(**changes)


def plain_model(**changes) -> ModelConfig:
    """Without the three components: quicker to compile, where they do not matter."""
    return small_model(adaptation="none", mh_fpn=False, dc_hsp=False, **changes)


def experiment(model=None, **changes) -> Experiment:
    settings = {"steps": 6, "batch_size": 4, "finetune": "scratch", "learning_rate": 1e-3, "clip_multiplier": 1.0}
    settings |= {"log_every": 1, "checkpoint_every": 2, "eval_every": 0, "picture_every": 0} | changes
    return Experiment(
        name="test",
        model=model or plain_model(),
        data=DataConfig(scenes=ScenesConfig(size=32, train_images=13, val_images=3), augment=AugmentConfig(flip=False)),
        train=TrainConfig(**settings),
        eval=EvalConfig(batch_size=4, limit=2, pictures=1),
    )


def batch(size=4):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, CROP, CROP, 3), np.uint8),
        "label": rng.integers(-1, CLASSES, (size, CROP, CROP)).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
    }


def tokens():
    rows = np.zeros((CLASSES, 1, LENGTH), np.int32)
    rows[:, 0, :4] = [[49406, 320 + 7 * row, 530 + row, 49407] for row in range(CLASSES)]
    return rows


@functools.lru_cache
def params_of(config: Experiment):
    return jax.device_get(initialise.starting_params(config, parallel.make_mesh())[0])


def new_state(config: Experiment, mesh):
    make = functools.partial(train.create_state, train=config.train)
    return jax.jit(make, out_shardings=parallel.replicated(mesh))(params_of(dataclasses.replace(config, train=TrainConfig())))


def run_steps(config: Experiment, steps=2, devices=None, data=None):
    mesh = parallel.make_mesh(devices)
    step = jax.jit(train.make_train_step(config), donate_argnums=0, out_shardings=parallel.replicated(mesh))
    state, words = new_state(config, mesh), parallel.put_replicated(tokens(), mesh)
    history = []
    for _ in range(steps):
        state, metrics = step(state, parallel.put_batch(data or batch(), mesh), words)
        history.append({name: np.asarray(value) for name, value in metrics.items()})
    return state, history


def assert_close(a, b, tolerance=2e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


# ---------------------------------------------------------------------------------------------------- one step


@pytest.fixture(scope="module")
def reference():
    """Two steps of the plain model on all devices: (state, metrics of each step)."""
    return run_steps(experiment())


def test_step_counts_and_the_loss_falls(reference):
    state, history = reference
    assert int(state.step) == 2
    assert history[1]["loss/total"] < history[0]["loss/total"]
    assert history[0]["gradient_norm"] > 0


def test_two_steps_trace_once():
    before = train.traces["train_step"]
    run_steps(experiment(seed_free := None) if False else experiment(), steps=3)
    assert train.traces["train_step"] == before + 1


def test_one_device_equals_several(reference):
    state, history = run_steps(experiment(), devices=jax.devices()[:1])
    np.testing.assert_allclose(history[1]["loss/total"], reference[1][1]["loss/total"], rtol=1e-4)
    assert_close(state.trainable["aggregator"]["head"], reference[0].trainable["aggregator"]["head"])


def test_accumulation_equals_the_whole_batch():
    whole, history = run_steps(experiment(), steps=1, devices=jax.devices()[:1])
    parts, split = run_steps(experiment(accumulation=2), steps=1, devices=jax.devices()[:1])
    np.testing.assert_allclose(split[0]["loss/total"], history[0]["loss/total"], rtol=1e-5)
    np.testing.assert_allclose(split[0]["gradient_norm"], history[0]["gradient_norm"], rtol=1e-4)


def test_split_batch_keeps_every_image_once_and_on_its_device():
    parts = train._split_batch({"index": jnp.arange(12)}, 3)["index"]
    assert parts.shape == (3, 4)
    # Two devices would hold 0..5 and 6..11: each micro-batch has as many of either.
    assert parts.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_ema_follows_and_is_what_is_evaluated():
    config = experiment(ema_decay=0.75)
    start = params_of(dataclasses.replace(config, train=TrainConfig()))["aggregator"]["head"]["bias"]
    state, _ = run_steps(config, steps=1)
    bias = np.asarray(state.trainable["aggregator"]["head"]["bias"])
    expected = 0.75 * start + 0.25 * bias
    np.testing.assert_allclose(state.params["aggregator"]["head"]["bias"], expected, rtol=1e-6)
    assert not np.allclose(bias, expected)
