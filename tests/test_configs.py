"""Every configuration file: it loads, survives the round trip, and its initialisation and training step trace."""

import dataclasses
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, command_line, training
from ahs_seg_jax.errors import ConfigError, InputError
from ahs_seg_jax.training import step
from tests.support import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
CLASSES, LENGTH = 7, 8


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def experiment(path: pathlib.Path, variant: str) -> Experiment:
    """The variant as the program gets it; weights that a user must name are taken as random."""
    values = load(path).get_config(variant)
    values.init = values.init or training.RANDOM_INIT
    return command_line.from_config_dict(values)


def test_configs_are_found():
    assert {path.stem for path in CONFIGS} >= {"tiny", "vitb", "vitl", "folder"}


@functools.cache
def traced(described: Experiment):
    """The shapes of a training's state, of the state after a step, and of that step's metrics."""
    settings, crop = described.train, described.model.image.crop
    state = jax.eval_shape(lambda: step.create_state(starting.fresh_params(described), settings))
    batch = {
        "image": jax.ShapeDtypeStruct((settings.batch_size, crop, crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((settings.batch_size, crop, crop), jnp.int32),
        "index": jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    }
    tokens = jax.ShapeDtypeStruct((CLASSES, described.model.aggregator.prompts, LENGTH), jnp.int32)
    return state, *jax.eval_shape(step.make_train_step(described), state, batch, tokens)


def without_numbers(described: Experiment) -> Experiment:
    """The experiment without what changes the values in a training step and nothing about its program.

    Several variants have the same program (ViT-B's and ViT-L's smoke runs; the whole ablation and `tiny.py`): it is
    traced once.
    """
    rates = {"learning_rate": 1e-3, "clip_multiplier": 1.0, "weight_decay": 0.0, "steps": 9, "warmup_steps": 1}
    intervals = dict.fromkeys(("log_every", "checkpoint_every", "eval_every", "picture_every"), 1)
    train = dataclasses.replace(described.train, **rates, **intervals)
    return dataclasses.replace(
        described, name="", init=training.RANDOM_INIT, data=DataConfig(), eval=EvalConfig(), train=train
    )


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_init_and_training_step_trace(path, variant):
    described = experiment(path, variant)
    state, after, metrics = traced(without_numbers(described))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(value.dtype == jnp.float32 for value in metrics.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.trainable, state.frozen)))
    assert {"loss/segmentation", "loss/energy", "loss/boundary", "loss/contrastive"} <= set(metrics)
    assert bool(jax.tree.leaves(state.frozen)) == (described.train.finetune != "scratch")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_smoke_is_small_and_says_how_it_is_run(path):
    described = experiment(path, "smoke")
    assert described.train.steps <= 4
    assert described.model.image.layers <= 4
    assert f"--config=configs/{path.stem}.py:smoke" in load(path).__doc__


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_unknown_variant_is_refused(path):
    with pytest.raises(InputError, match=r"variant 'smok' is not one of .*'smoke'"):
        load(path).get_config("smok")


@pytest.mark.parametrize("name", ["vitb", "vitl"])
def test_published_recipe_needs_weights_and_says_which(name):
    path = next(path for path in CONFIGS if path.stem == name)
    with pytest.raises(ConfigError, match=r"init is empty .*download CLIP \(openai/clip-vit-base-patch16 or"):
        command_line.from_config_dict(load(path).get_config())


@pytest.mark.parametrize(("name", "rate", "inside"), [("vitb", 2e-4, 0.01), ("vitl", 1e-4, 0.005)])
def test_published_recipe(name, rate, inside):
    settings = experiment(next(path for path in CONFIGS if path.stem == name), "").train
    assert (settings.learning_rate, settings.clip_multiplier) == (rate, inside)
    assert (settings.steps, settings.weight_decay, settings.clip_norm, settings.class_pooling) == (80_000, 1e-4, 1.0, 2)
    assert (settings.finetune, settings.warmup_steps) == ("orthogonal", 0)
