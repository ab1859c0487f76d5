"""MH-FPN in its three fusion types: golden numbers, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import component_layouts, layouts
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.mh_fpn import MHFPN
from tests.support.goldens import assert_close, assert_trees_close, parameters


@pytest.mark.parametrize("fusion", architecture.FUSIONS)
def test_golden(golden, fusion):
    with np.load(golden / "mh_fpn.npz") as file:
        stored = {name.removeprefix(f"{fusion}/"): file[name] for name in file.files if name.startswith(fusion)}
    base = architecture.tiny()
    image = architecture.ImageTowerConfig(layers=3, width=48, heads=4)
    config = base.replace(image=image, embed_dim=32, mh_fpn_fusion=fusion)
    pyramid = component_layouts.PYRAMID
    table = [entry for entry in layouts.entries("ahs_seg", config) if entry.source.startswith(pyramid)]
    p = parameters(stored, table, pyramid, "param/")["mh_fpn"]
    levels = [jnp.asarray(stored[f"in{level}"]).reshape(2, 6, 6, 48) for level in range(3)]
    module = MHFPN(32, fusion)

    fused, back = jax.vjp(jax.jit(lambda p: module.apply({"params": p}, levels)[0]), p)
    assert_close(fused.transpose(0, 3, 1, 2), stored["out"], 1e-4)
    gradient = parameters(stored, table, pyramid, "grad/")["mh_fpn"]
    assert_trees_close(back(jnp.asarray(stored["cotangent"]).transpose(0, 2, 3, 1))[0], gradient, 1e-3)


@pytest.mark.parametrize(("fusion", "shape"), [("weighted", (3,)), ("attention", (2, 3)), ("concat", None)])
def test_weights_are_reported_and_sum_to_one(fusion, shape):
    levels = list(jax.random.normal(jax.random.key(0), (3, 2, 5, 5, 7)))
    (fused, out), _ = jax.jit(MHFPN(16, fusion).init_with_output)(jax.random.key(1), levels)
    assert fused.shape == (2, 5, 5, 16)
    if shape is None:
        assert "weights" not in out
    else:
        assert out["weights"].shape == shape
        np.testing.assert_allclose(out["weights"].sum(-1), 1.0, rtol=1e-6)
