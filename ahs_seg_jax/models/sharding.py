"""Where the model's large activations lie on a mesh of devices.

The caller makes a mesh known (`on`, inside a traced function); without one everything here does nothing. Classes are
independent but for the class attention's two sums, so that splitting them over the axis `classes` costs one small
reduction in each aggregation layer.

Axes: b image, t class.
"""

import contextlib
import math

import jax
from jax.sharding import Mesh, PartitionSpec

DATA_AXIS, FSDP_AXIS, CLASS_AXIS = "data", "fsdp", "classes"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager[object]:
    """Makes a mesh known to what is traced within; None: no mesh."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh else contextlib.nullcontext()


def platform(mesh: Mesh | None = None) -> str:
    """The platform of the mesh's devices, or of those that JAX takes without one: cpu | gpu | tpu."""
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def _constrained(x: jax.Array, *axes: str | tuple[str, ...]) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not {*BATCH_AXES, CLASS_AXIS} <= set(mesh.axis_names) or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def whole(x: jax.Array) -> jax.Array:
    """A whole copy on each device, of the gradient too.

    It stops the class sharding of later stages from propagating into earlier ones.
    """
    return _constrained(x)


def by_image(x: jax.Array) -> jax.Array:
    """`[b, ...]` split over the batch axes."""
    return _constrained(x, BATCH_AXES)


def by_class(x: jax.Array) -> jax.Array:
    """`[b, t, ...]` split over the batch axes and the class axis."""
    return _constrained(x, BATCH_AXES, CLASS_AXIS)


def batch_shards() -> int:
    """Over how many devices the images are split; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in BATCH_AXES)


def class_shards() -> int:
    """Over how many devices the classes are split; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(CLASS_AXIS, 1)
