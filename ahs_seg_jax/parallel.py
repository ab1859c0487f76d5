"""Devices: the mesh, where every array lies on it, and what one process of several does.

The mesh has three axes, all sharded by the compiler:
  data     batches are split; parameters are copied
  fsdp     batches are split too, and so are parameters, optimiser state and moving average (`PARTITION_RULES`)
  classes  the aggregator's and decoder's activations are split by class (models/sharding.py)
What a step computes does not depend on the mesh. Shardings are made here and nowhere else.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.models.sharding import BATCH_AXES, CLASS_AXIS, DATA_AXIS, FSDP_AXIS

# The first pattern that matches a parameter's whole name says which of its axes may be split over `fsdp`: those from
# this number on; None: it is copied. Layers stacked on the first axis of a tower's blocks are visited one after the other,
# so that axis must stay whole.
PARTITION_RULES: tuple[tuple[str, int | None], ...] = (
    (r".*/(bias|scale|radius)", None),
    (r"clip/logit_scale", None),
    (r"clip/(image|text)/blocks/.*", 1),
    (r"clip/(image|text)/(class|position|token|patch)_embedding(/kernel)?", 0),
    (r"clip/(image|text)/projection/kernel", 0),
    (r"clip/adaptation/(core|block_mix|slot_mix)", 0),
    (r"clip/adaptation/(alpha|beta)_(image|text)", None),
    (r"guidance_up_[12]/kernel", 0),
    (r"aggregator/.*/padding_(token|guidance)", None),
    (r"(aggregator|mh_fpn|dc_hsp)/.*kernel", 0),
    (r"mh_fpn/fusion_weights", None),
    (r"dc_hsp/(image|text)/(base|a|b)", 0),
)


class UnmatchedParameters(ValueError):
    """Parameters that no pattern of PARTITION_RULES knows; the message lists them."""


# ------------------------------------------------------------------------------------------------------- the mesh


def make_mesh(devices: Sequence[jax.Device] | None = None, config: MeshConfig | None = None) -> Mesh:
    """The mesh (data, fsdp, classes) over the given devices, by default all of all processes, and by default all `data`.

    One axis of `config` may be -1: what the others leave. Raises ValueError if the sizes do not make up the devices.
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


def along_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis number `axis` split over `data` and `fsdp`: batches, and micro-batches stacked in front of them."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), BATCH_AXES))


def first_axis(name: str) -> int | None:
    """The first axis of a parameter that may be split, by PARTITION_RULES. Raises UnmatchedParameters."""
    for pattern, axis in PARTITION_RULES:
        if re.fullmatch(pattern, name):
            return axis
    raise UnmatchedParameters(name)


def spec(name: str, shape: Sequence[int], shards: int) -> PartitionSpec:
    """How a parameter of this name and shape is split over `fsdp`: along its largest divisible axis, or not at all."""
    first = first_axis(name)
    if first is None or shards == 1:
        return PartitionSpec()
    divisible = [(size, -axis) for axis, size in enumerate(shape) if axis >= first and size and size % shards == 0]
    if not divisible:
        return PartitionSpec()
    axis = -max(divisible)[1]
    return PartitionSpec(*([None] * axis), FSDP_AXIS)


def parameter_name(path: Sequence[Any]) -> str:
    """The parameter's name at the end of a leaf's path in a state, such as `aggregator/head/kernel`.

    Empty for what belongs to no parameter, such as the step. Optimiser state and moving average repeat the tree.
    """
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a tree of parameters, or of a whole training state (arrays or their shapes).

    Raises UnmatchedParameters, naming every parameter that no rule knows.
    """
    unmatched: list[str] = []

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        if not (name := parameter_name(path)):
            return replicated(mesh)
        try:
            return NamedSharding(mesh, spec(name, leaf.shape, mesh.shape[FSDP_AXIS]))
        except UnmatchedParameters:
            unmatched.append(name)
            return replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(sharding, tree)
    if unmatched:
        raise UnmatchedParameters(
            f"no partition rule matches {', '.join(sorted(set(unmatched)))}; add a pattern to PARTITION_RULES"
        )
    return shardings


def with_shardings(tree: Any, mesh: Mesh) -> Any:
    """A tree of shapes with their shardings, for restoring and for compiling ahead of time."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        tree_shardings(tree, mesh),
    )


def bytes_per_device(tree: Any, mesh: Mesh) -> Iterator[tuple[str, int]]:
    """(parameter name, bytes on each device) of every leaf of a state that lies as `tree_shardings` says."""
    shardings = jax.tree.leaves(tree_shardings(tree, mesh))
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(tree), shardings, strict=True):
        yield parameter_name(path), math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


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


def put_sharded(params: Any, mesh: Mesh) -> Any:
    """Host arrays of a tree of parameters, equal in all processes, laid out by the rules."""
    return jax.device_put(params, tree_shardings(params, mesh))


def wait_for_all(name: str) -> None:
    """Returns when all processes have come to the point of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def as_first_process(value: bool) -> bool:
    """The first process's value, in all processes: for what they must do alike and each would see a little differently."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes reports."""
    return jax.process_index() == 0


def log(message: str) -> None:
    """Prints a line, once for all processes."""
    if is_main_process():
        print(message, flush=True)
