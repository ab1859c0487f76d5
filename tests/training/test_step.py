"""The training step by equivalences, with a stand-in for the model; `test_train_model.py` has the real one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.devices import mesh
from ahs_seg_jax.training import step
from tests.support.small import small_model
from tests.support.training import batch, close, experiment, run_steps


def test_loss_falls_and_the_step_is_traced_once(stand_in):
    before = step.traces["train_step"]
    state, history, programs = run_steps(experiment(), steps=3)
    assert int(state.step) == 3
    assert history[2]["loss/total"] < history[0]["loss/total"]
    assert (step.traces["train_step"] - before, programs) == (1, 1)


def test_rates_follow_the_schedule(stand_in):
    _, history, _ = run_steps(experiment(steps=2, clip_multiplier=0.5))
    np.testing.assert_allclose([metrics["learning_rate/base"] for metrics in history], [1e-2, 5e-3], rtol=1e-6)
    np.testing.assert_allclose([metrics["learning_rate/clip"] for metrics in history], [5e-3, 2.5e-3], rtol=1e-6)


def test_one_device_equals_several(stand_in):
    config = experiment(small_model(adaptation="none", dc_hsp=False))
    several, history, _ = run_steps(config)
    single, alone, _ = run_steps(config, devices=jax.devices()[:1])
    close((several.trainable, history), (single.trainable, alone))


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulation_equals_the_whole_batch(stand_in, devices):
    config = experiment(small_model(adaptation="none", dc_hsp=False))
    whole, history, _ = run_steps(config, devices=jax.devices()[:1])
    parts, split, _ = run_steps(
        dataclasses.replace(config, train=dataclasses.replace(config.train, accumulation=2)),
        devices=jax.devices()[:devices],
    )
    close((whole.trainable, history), (parts.trainable, split))


def test_split_batch_is_strided_so_that_images_stay_on_their_device():
    parts = step._split_batch({"index": jnp.arange(12)}, 3)["index"]
    # Two devices hold 0..5 and 6..11: every micro-batch has two of either.
    assert parts.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_dropout_depends_on_the_step(stand_in):
    _, history, _ = run_steps(experiment(learning_rate=1e-30), steps=2)
    assert history[0]["loss/total"] != history[1]["loss/total"]


def test_ema_follows_and_is_what_is_evaluated(stand_in):
    config = experiment(ema_decay=0.75)
    start = starting.starting_params(config, mesh.make_mesh())[0]["aggregator"]["kernel"]
    state, _, _ = run_steps(config, steps=1)
    learned = state.trainable["aggregator"]["kernel"]
    np.testing.assert_allclose(state.params["aggregator"]["kernel"], 0.75 * start + 0.25 * learned, rtol=1e-5)


def test_frozen_parameters_stay_and_hold_no_state(stand_in):
    config = experiment(finetune="frozen")
    start = starting.starting_params(config, mesh.make_mesh())[0]["clip"]
    state, _, _ = run_steps(config)
    assert set(state.trainable) == {"aggregator"}
    jax.tree.map(np.testing.assert_array_equal, state.frozen["clip"], start)
    assert sum(leaf.shape == (3, 16) for leaf in jax.tree.leaves(state.opt_state)) == 2


@pytest.fixture
def loss_is_nan_for_class_3(stand_in, monkeypatch):
    """Makes the loss NaN for batches whose first pixel is of class 3."""
    original = step.losses.total_loss

    def total_loss(logits, out, labels, *args, **kwargs):
        total, parts = original(logits, out, labels, *args, **kwargs)
        return jnp.where(labels[0, 0, 0] == 3, jnp.nan, 1.0) * total, parts

    monkeypatch.setattr(step.losses, "total_loss", total_loss)


def test_update_that_is_not_finite_is_left_out_and_counted(loss_is_nan_for_class_3):
    config = experiment(on_nonfinite="skip", ema_decay=0.9)
    good, bad = batch(), batch()
    good["label"][0, 0, 0], bad["label"][0, 0, 0] = 1, 3
    once, _, _ = run_steps(config, steps=1, data=good)
    twice, history, _ = run_steps(config, data=[good, bad])
    assert (int(twice.step), int(twice.skipped), history[1]["skipped_updates"]) == (2, 1, 1.0)
    assert np.isnan(history[1]["loss/total"])
    same = lambda state: jax.device_get((state.trainable, state.opt_state, state.ema))
    jax.tree.map(np.testing.assert_array_equal, same(twice), same(once))
