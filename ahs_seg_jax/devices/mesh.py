"""Devices: the mesh, where every array lies on it, and what one process of several does.

The mesh has three axes, all sharded by the compiler:
  data     batches are split; parameters are copied
  fsdp     batches are split too, and so are parameters, optimiser state and moving average (`PARTITION_RULES`)
  classes  the aggregator's and decoder's activations are split by class (models/sharding.py)
What a step computes does not depend on the mesh. Shardings are made here and nowhere else.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.models.sharding import BATCH_AXES, CLASS_AXIS, DATA_AXIS, FSDP_AXIS

# ------------------------------------------------------------------------------------------------------- the mesh


def make_mesh(devices: Sequence[jax.Device] | None = None, config: MeshConfig | None = None) -> Mesh:
    """The mesh (data, fsdp, classes) over the given devices, by default those of all processes.

    One axis of `config` may be -1: it takes the devices that the others leave. Without a `config`, `data` takes all.
    Raises ValueError if the sizes do not make up the devices.
    """
    config, found = config or MeshConfig(), np.asarray(jax.devices() if devices is None else devices)
    sizes = {DATA_AXIS: config.data, FSDP_AXIS: config.fsdp, CLASS_AXIS: config.classes}
    fixed = math.prod(size for size in sizes.values() if size > 0)
    free = [name for name, size in sizes.items() if size == -1]
    if found.size % fixed or (not free and fixed != found.size):
        asked = ", ".join(f"mesh.{name} = {size}" for name, size in sizes.items())
        raise ValueError(
            f"{asked} needs {'a multiple of ' if free else ''}{fixed} devices, but there are {found.size}; "
            "change the sizes, or set one of them to -1 (what the others leave)"
        )
    shape = [found.size // fixed if size == -1 else size for size in sizes.values()]
    return Mesh(found.reshape(shape), tuple(sizes))


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Raises ValueError if a micro-batch cannot be split evenly over the devices of all processes."""
    devices = batch_shards(mesh)
    if batch_size % (devices * accumulation):
        unit = devices * accumulation
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        nearest = " or ".join(str(size) for size in (below, above) if size)
        split = f"{devices} devices" + (f" x {accumulation} micro-batches" if accumulation > 1 else "")
        raise ValueError(
            f"train.batch_size is {batch_size}, which does not divide evenly over {split}; set it to {nearest}"
        )


# --------------------------------------------------------------------------------------------------- shardings


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device: tokens, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """The first axis, that of a batch, split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


# ----------------------------------------------------------------------------------------------------- placing


def local_rows(batch_size: int, mesh: Mesh) -> range:
    """The rows of a global batch that this process reads: those that its devices hold.

    Raises ValueError for a mesh whose devices give a process rows that do not lie together.
    """
    held: Any = along_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = sorted({row for (index,) in held for row in range(*index.indices(batch_size))})
    if rows[-1] - rows[0] + 1 != len(rows):
        raise ValueError(f"this process holds rows {rows} of a batch; order the mesh's devices by process")
    return range(rows[0], rows[-1] + 1)


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch (`local_rows`), as arrays [b, ...] of the whole batch on the mesh."""
    sharding = along_batch(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, np.asarray(value)) for key, value in batch.items()}


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Arrays, equal in all processes, copied to every device."""
    return jax.device_put(tree, replicated(mesh))
