"""Devices: the mesh, where arrays lie on it, and what one process of several does.

The mesh has one axis, `data`: batches are split along it, parameters are copied to every device, and the compiler sums
the gradients. Shardings are made here and nowhere else, so another axis is added in one place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the given devices, by default all of all processes, with the one axis `data` (compiler-sharded)."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device: parameters, optimiser state, tokens."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis number `axis` split over the devices: batches, and micro-batches stacked in front of them."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), DATA_AXIS))


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Raises ValueError if a micro-batch cannot be split evenly over the devices of all processes."""
    devices = mesh.devices.size
    if batch_size % (devices * accumulation):
        unit = devices * accumulation
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        nearest = " or ".join(str(size) for size in (below, above) if size)
        split = f"{devices} devices" + (f" x {accumulation} micro-batches" if accumulation > 1 else "")
        raise ValueError(
            f"train.batch_size is {batch_size}, which does not divide evenly over {split}; set it to {nearest}"
        )


def local_batch_size(batch_size: int) -> int:
    """How many of a batch's images this process loads."""
    return batch_size // jax.process_count()


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, leaves [b/processes, ...], as arrays [b, ...] split over the whole mesh."""
    sharding = along_batch(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, np.asarray(value)) for key, value in batch.items()}


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, equal in all processes, copied to every device."""
    return jax.device_put(tree, replicated(mesh))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes reports."""
    return jax.process_index() == 0


def log(message: str) -> None:
    """Prints a line, once for all processes."""
    if is_main_process():
        print(message, flush=True)
