"""DC-HSP: golden numbers of complexity, projections, prototypes and its two losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import component_layouts, layouts
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.dc_hsp import DCHSP
from ahs_seg_jax.training import losses
from tests.support.goldens import assert_close, parameters


@pytest.fixture(scope="module")
def stored(golden):
    with np.load(golden / "dc_hsp.npz") as file:
        return {name: file[name] for name in file.files}


def test_golden(stored):
    config = architecture.tiny().replace(embed_dim=24, dc_hsp_rank=6)
    prefix = component_layouts.PROJECTION
    table = [entry for entry in layouts.entries("ahs_seg", config) if entry.source.startswith(prefix)]
    p = parameters(stored, table, prefix, "param/")["dc_hsp"]
    image = jnp.asarray(stored["image"]).transpose(0, 2, 3, 1)
    out = jax.jit(DCHSP(24, 6).apply)({"params": p}, image, jnp.asarray(stored["text"]))
    assert_close(out["complexity"][:, None], stored["complexity"], 1e-4)
    assert_close(out["image"].transpose(0, 3, 1, 2), stored["proj_image"], 1e-4)
    assert_close(out["text"], stored["proj_text"], 1e-4)
    labels = jnp.asarray(stored["labels"])
    prototypes, count = losses.class_prototypes(out["image"], labels, 7)
    assert ((count > 0) == stored["prototype_valid"]).all()
    assert_close(prototypes, stored["prototypes"], 1e-4)
    assert_close(jax.jit(losses.contrastive_loss)(out["image"], out["text"], labels), stored["contrastive"], 1e-4)
    pairs = losses.ClassPairs(stored["parent_child"], stored["siblings"])
    assert_close(losses.hierarchy_loss(jnp.asarray(stored["text"]), pairs), stored["hierarchy"][0], 1e-4)


def test_dropout_acts_in_training_only_and_only_on_complexity():
    module = DCHSP(24, 6)
    image, text = jax.random.normal(jax.random.key(0), (1, 3, 5, 24)), jax.random.normal(jax.random.key(1), (7, 24))
    variables = jax.jit(module.init)(jax.random.key(2), image, text)
    plain = jax.jit(module.apply)(variables, image, text)
    training = jax.jit(functools.partial(module.apply, train=True))
    dropped = training(variables, image, text, rngs={"dropout": jax.random.key(3)})
    assert np.abs(plain["complexity"] - dropped["complexity"]).max() > 1e-3
    # B starts at zero: the projections do not see the complexity yet.
    np.testing.assert_array_equal(plain["text"], dropped["text"])
    np.testing.assert_array_equal(plain["image"], dropped["image"])
    np.testing.assert_allclose(jnp.linalg.norm(plain["text"], axis=-1), 24**0.5, rtol=1e-5)
