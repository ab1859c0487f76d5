"""Predicted needs: the figures of a compiled program, and the real training step for a TPU where libtpu is installed."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import initialise, memory, parallel, step
from ahs_seg_jax.config import InputError, MeshConfig
from ahs_seg_jax.data.scenes import scenes_vocabulary
from configs import vitb
from tests.standin import StandIn
from tests.test_train import experiment


def test_figures_of_a_program_on_two_devices():
    mesh = parallel.make_mesh(jax.devices()[:2])
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=parallel.along_batch(mesh))
    w = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=parallel.replicated(mesh))
    product = jax.jit(lambda x, w: (x @ w).sum(0), out_shardings=parallel.replicated(mesh))
    found = memory.figures(product.lower(x, w).compile())
    assert found.arguments == 4 * 16 * 4 + 16 * 4 * 4  # half the rows, all of the matrix
    assert found.results == 4 * 4
    assert found.peak == found.arguments + found.results + found.temporaries
    assert found.operations >= 2 * 4 * 16 * 4
    assert found.collectives == {"all-reduce": 1}


def test_training_step_of_a_configuration_is_predicted_without_running_it(monkeypatch):
    for module in (initialise, step):
        monkeypatch.setattr(module, "AHSSeg", StandIn)
    config = experiment()
    assert memory.training_vocabulary(config).names == scenes_vocabulary("train").names
    mesh = parallel.make_mesh(jax.devices()[:4], MeshConfig(fsdp=2))
    found = memory.figures(memory.compile_training(config, memory.training_vocabulary(config), mesh))
    state = step.abstract_state(config, mesh)
    held = sum(size for _, size in parallel.bytes_per_device(state, mesh))
    assert 0 <= found.arguments - held < 20_000  # the rest is the batch and the tokens
    assert found.results < 1000  # the new state takes the place of the old one
    text = memory.report("test, batch 4", found, available=16.0)
    assert "GiB of 16 GiB: fits" in text
    assert "all-reduce" in text
    assert "DOES NOT FIT" in memory.report("test", found, available=1e-9)


def test_unknown_topology_is_refused():
    with pytest.raises(InputError, match=r"cannot compile for the topology 'v0:1x1'.*a name such as v5e:2x2"):
        memory.topology_devices("v0:1x1")


@pytest.mark.slow
def test_step_of_the_published_recipe_compiles_for_a_tpu_and_fits(monkeypatch):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu: pip install '.[tpu]'")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    devices = memory.topology_devices("v5e:2x2")
    config = dataclasses.replace(vitb.experiment(), init="random")
    mesh = parallel.make_mesh(devices)
    found = memory.figures(memory.compile_training(config, memory.training_vocabulary(config), mesh))
    assert found.peak < memory.CHIP_GIB["v5e"] * memory.GIB
    assert found.collectives["all-reduce"] >= 1
    assert np.isfinite(found.operations)
