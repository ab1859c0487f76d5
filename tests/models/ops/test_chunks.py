"""Passes over some of the classes at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.models import sharding
from ahs_seg_jax.models.ops import chunks


def test_chunks_change_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 7, 3, 5))
    index = jnp.arange(7.0)[None]
    weigh = lambda x, index: x * index[:, :, None, None]
    for chunk, remat in ((0, "all"), (1, "none"), (3, "cheap"), (7, "none"), (9, "all")):
        result = chunks.over_classes(weigh, x, index, chunk=chunk, remat=remat)
        np.testing.assert_array_equal(result, weigh(x, index))


def test_a_pass_over_classes_keeps_no_copy_of_what_it_takes():
    """Its backward pass reads the part again from the whole, also where that is constrained to the mesh."""
    mesh = make_mesh()
    x = jax.ShapeDtypeStruct((mesh.devices.size, 6, 3), "float32")

    def forward(x):
        with sharding.on(mesh):
            return jax.vjp(lambda x: chunks.over_classes(jnp.sin, x, chunk=2, remat="all"), x)[0]

    (loop,) = (e for e in jax.make_jaxpr(forward)(x).eqns if e.primitive.name == "scan")
    assert [v.aval.shape for v in loop.outvars] == [(3, mesh.devices.size, 2, 3)]
