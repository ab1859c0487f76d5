"""The training step of the real model: what each component brings, devices, one trace, and every part learns."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.models.ops import remat
from ahs_seg_jax.training import step
from ahs_seg_jax.training.losses import ClassPairs
from tests.support.small import small_model
from tests.support.training import batch, experiment, run_steps, tokens


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"adaptation": "none", "mh_fpn": False, "dc_hsp": False}, set()),
        ({"adaptation": "orthogonal", "mh_fpn": False, "dc_hsp": False}, set()),
        ({"adaptation": "ha_hem", "mh_fpn": False, "dc_hsp": False}, {"energy"}),
        ({"adaptation": "none", "mh_fpn": True, "dc_hsp": False}, {"boundary"}),
        ({"adaptation": "none", "mh_fpn": False, "dc_hsp": True}, {"contrastive", "hierarchy"}),
        ({"adaptation": "ha_hem", "mh_fpn": True, "dc_hsp": False}, {"energy", "boundary"}),
        ({}, {"energy", "boundary", "contrastive", "hierarchy"}),
    ],
)
def test_components_bring_their_losses_parameters_and_curves(changes, names):
    config = experiment(small_model(**changes))
    shapes = jax.eval_shape(lambda: step.create_state(starting.fresh_params(config), config.train))
    pairs = ClassPairs(np.zeros((0, 2), np.int32), np.array([[0, 1]], np.int32))
    state, metrics = jax.eval_shape(step.make_train_step(config, pairs), shapes, batch(), tokens())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert {name for name in metrics if name.startswith("loss/")} == {
        "loss/total",
        "loss/segmentation",
        *(f"loss/{name}" for name in names),
    }
    model, params = config.model, state.params
    assert ("adaptation" in params["clip"]) == (model.adaptation != "none")
    assert ("mh_fpn" in params, "dc_hsp" in params) == (model.mh_fpn, model.dc_hsp)
    curves = {name: metrics[name].shape for name in metrics if name.startswith(("alpha", "beta", "fusion"))}
    adapted = {"alpha/text": (1,), "alpha/image": (3,), "beta/text": (), "beta/image": ()}
    assert curves == (adapted if model.adaptation == "ha_hem" else {}) | ({"fusion": (3,)} if model.mh_fpn else {})


def equations(jaxpr):
    """All equations, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from equations(getattr(inner, "jaxpr", inner))


def step_products(config):
    """The products and convolutions of a training step."""
    shapes = jax.eval_shape(lambda: step.create_state(starting.fresh_params(config), config.train))
    jaxpr = jax.make_jaxpr(step.make_train_step(config))(shapes, batch(), tokens())
    return [e for e in equations(jaxpr.jaxpr) if e.primitive.name in ("dot_general", "conv_general_dilated")]


def test_cheap_rematerialisation_computes_no_convolution_and_no_long_product_again(monkeypatch):
    """Those that the gradients written by hand take part in are the easiest to lose: a rule can hide them."""
    monkeypatch.setattr(remat, "SHORT", 1)  # every product with parameters is long: the model of the tests is small

    def counts(remat):
        kept = [e for e in step_products(experiment(small_model(class_chunk=2, remat=remat))) if not batched(e)]
        return collections.Counter((e.primitive.name, tuple(v.aval.shape for v in e.invars)) for e in kept)

    batched = lambda e: e.primitive.name == "dot_general" and e.params["dimension_numbers"][1][0]
    none, cheap, everything = (counts(remat) for remat in ("none", "cheap", "all"))
    assert cheap == none
    assert everything.total() > none.total()


def test_every_product_of_a_float32_step_is_at_the_highest_precision():
    """GPUs and TPUs round factors to fewer bits otherwise; the backward passes written by hand are traced apart."""
    products = step_products(experiment(small_model(class_chunk=2, remat="cheap"), finetune="orthogonal"))
    assert len(products) > 300
    assert {e.params["precision"] for e in products} == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.slow
def test_trains_on_several_devices_and_traces_once():
    jax.config.update("jax_disable_most_optimizations", True)  # it is slow for its compiling alone
    config = dataclasses.replace(experiment(small_model(), finetune="orthogonal"), init="random")
    several, history, programs = run_steps(config, steps=3)
    assert programs == 1
    assert history[2]["loss/segmentation"] < history[0]["loss/segmentation"]
    assert set(several.frozen) == {"clip"}
    _, alone, _ = run_steps(config, steps=1, devices=jax.devices()[:1])
    np.testing.assert_allclose(history[0]["loss/segmentation"], alone[0]["loss/segmentation"], rtol=1e-4)
