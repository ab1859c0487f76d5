"""Partition rules: on which axes of the mesh each parameter is split, by its name."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ahs_seg_jax.devices.mesh import replicated
from ahs_seg_jax.models.sharding import FSDP_AXIS
from ahs_seg_jax.models.towers import registry

# The first pattern that matches a parameter's whole name says which of its axes may be split over `fsdp`: those from
# this number on; None means that it is copied. What no pattern matches may be a tower's parameter (models/towers/).
PARTITION_RULES: tuple[tuple[str, int | None], ...] = (
    (r".*/(bias|scale|radius)", None),
    (r"clip/logit_scale", None),
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


def first_axis(name: str) -> int | None:
    """The first axis of a parameter that may be split, by PARTITION_RULES or its tower. Raises UnmatchedParameters."""
    for pattern, axis in PARTITION_RULES:
        if re.fullmatch(pattern, name):
            return axis
    if row := registry.parameter(name):
        return row.split_from
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


def put_sharded(params: Any, mesh: Mesh) -> Any:
    """Host arrays of a tree of parameters, equal in all processes, laid out by the rules."""
    return jax.device_put(params, tree_shardings(params, mesh))
