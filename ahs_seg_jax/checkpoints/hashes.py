"""Checks of what checkpoints store: a hash of each array and of the JSON beside it, and that weights are finite.

A hash finds accidental damage: a turned bit, a lost or exchanged block. It is no protection against somebody who
changes numbers and hashes together.
"""

import concurrent.futures
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ahs_seg_jax.devices import distributed, processes
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.threads import cores

HASHES, SEAL = "hashes", "seal"  # keys of the JSON beside the arrays
UNCHECKED = "has no hashes (an earlier version wrote it): damage to its numbers would not be noticed"

_ROW = 512  # words of 8 bytes
_BLOCK = 256 * _ROW * 8  # bytes; a block of rows stays in a core's cache while it is summed twice
_PLACE = re.compile(r"\d{1,18}:\d{1,18}(,\d{1,18}:\d{1,18})*")  # of a shard: first and last index of each axis

Examined = tuple[str, bool]  # an array's digest, and whether its values are certainly finite
# The hash of an array that one shard holds whole, or of each shard by its place: {"0:4,8:16": hash}.
Hashes = str | dict[str, str]


def digest(array: np.ndarray) -> str:
    """32 hexadecimal digits for an array's type, shape and bytes.

    The bytes are summed as 64-bit words over the rows and over the columns of blocks, and the sums are hashed: any
    change of up to three words of a block changes a sum for certain, and any other with near certainty. This is several
    times faster than zlib.crc32, the fastest checksum of the standard library.
    """
    return examine(array)[0]


def examine(array: np.ndarray) -> Examined:
    """An array's `digest`, and whether the sums of squares that were taken on the way are finite.

    They are not where a value is not finite, where squares are too large, and for types that BLAS does not know.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    finite = array.dtype in (np.float32, np.float64)
    found = hashlib.blake2b(f"{array.dtype.name} {array.shape}".encode(), digest_size=16)
    whole = data.size - data.size % (8 * _ROW)
    for start in range(0, whole, _BLOCK):
        part = data[start : min(start + _BLOCK, whole)]
        block = part.view("<u8").reshape(-1, _ROW)
        found.update(block.sum(0).astype("<u8").data)
        found.update(block.sum(1).astype("<u8").data)
        finite = finite and _finite_square(part.view(array.dtype))  # from the cache, where the sums have brought it
    found.update(data[whole:].data)
    return found.hexdigest(), finite and _finite_square(data[whole:].view(array.dtype))


def _finite_square(values: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values, values)))


def digests(leaves: Iterable[tuple[Any, np.ndarray]]) -> dict[Any, str]:
    """Name -> `digest` of each array, several at a time."""
    return {name: value for name, (value, _) in _all_examined(dict(leaves)).items()}


def threads() -> concurrent.futures.ThreadPoolExecutor:
    """For `examine`, whose work NumPy does without Python's lock."""
    return concurrent.futures.ThreadPoolExecutor(cores())


def _all_examined(leaves: Mapping[Any, np.ndarray]) -> dict[Any, Examined]:
    largest_first = dict(sorted(leaves.items(), key=lambda item: -item[1].nbytes))  # so that none is left at the end
    with threads() as pool:
        return dict(zip(largest_first, pool.map(examine, largest_first.values()), strict=True))


def check(
    leaves: Mapping[str, np.ndarray],
    stored: Mapping[str, Hashes] | None,
    where: str,
    parts_of: tuple[str, ...] = ("",),
    examined: Mapping[int, Examined] | None = None,
) -> None:
    """Compares arrays with the hashes that were stored with them, of those whose names begin with one of `parts_of`.

    Where none were stored, a line on stderr says so. `examined` are arrays, by their `id`, that were examined while
    others were read. Raises CheckpointError that names an array which differs or is
    missing, there or among the hashes ("damaged: ..."), or whose values are not finite.
    """
    if stored is None:
        if processes.is_main_process():
            print(f"{where} {UNCHECKED}", file=sys.stderr)
        check_finite(leaves.items(), where)
        return
    if absent := [name for name in stored if name.startswith(parts_of) and name not in leaves]:
        raise CheckpointError(f"damaged: {where} lacks the arrays {parameters.listed(absent)}")
    parts = {}
    for name, leaf in leaves.items():
        for place, value in _places(stored, name, leaf.shape, where).items():
            parts[name, place] = (leaf[_slices(place)] if place else leaf), value
    _check_parts(parts, where, examined or {})


def _places(stored: Mapping[str, Hashes], name: str, shape: tuple[int, ...], where: str) -> dict[str, str]:
    """Place of a shard -> its hash; the empty place is the whole array. Raises CheckpointError if a part has none."""
    kept = stored.get(name)
    if isinstance(kept, str):
        return {"": kept}
    if not isinstance(kept, Mapping):
        raise CheckpointError(f"damaged: {where} has no hash of the array {name}")
    if not _make_up(kept, shape):
        parts = ", ".join(map(repr, list(kept)[:3]))
        raise CheckpointError(f"damaged: {where} has hashes of {parts} in the array {name}, which do not make it up")
    return dict(kept)


def _make_up(places: Iterable[str], shape: tuple[int, ...]) -> bool:
    """Whether the places are a grid of parts that make up an array of this shape."""
    places = set(places)
    if not all(_PLACE.fullmatch(place) and place.count(":") == len(shape) for place in places):
        return False
    count, grid = 1, [_slices(place) for place in places]
    for axis, size in enumerate(shape):
        bounds = sorted({(parts[axis].start, parts[axis].stop) for parts in grid})
        ends = [0, *(end for _, end in bounds)]
        if ends[-1] != size or ends[:-1] != [start for start, _ in bounds]:
            return False
        count *= len(bounds)
    return count == len(places)


def _check_parts(
    parts: Mapping[tuple[str, str], tuple[np.ndarray, str]], where: str, examined: Mapping[int, Examined] = {}
) -> None:
    known = {key: examined[id(array)] for key, (array, _) in parts.items() if id(array) in examined}
    found = known | _all_examined({key: array for key, (array, _) in parts.items() if key not in known})
    for (name, place), (_, value) in parts.items():
        if found[name, place][0] != value:
            raise CheckpointError(f"damaged: {where} holds other numbers in the array {name}{place and f' [{place}]'}")
    unsure = ((key[0], array) for key, (array, _) in parts.items() if not found[key][1])
    check_finite(unsure, where)


def check_finite(leaves: Iterable[tuple[str, Any]], where: str) -> None:
    """Raises CheckpointError that names the arrays with NaN or infinite values."""
    if found := parameters.not_finite(leaves):
        raise CheckpointError(
            f"{where} holds values that are not finite (NaN or infinity) in {parameters.listed(found)}"
        )


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with a hash of itself."""
    return {**content, SEAL: _hash_of(content)}


def unsealed(content: Any, where: str) -> tuple[dict[str, Any], dict[str, Hashes] | None]:
    """JSON content as it was before `sealed`, and the hashes of the arrays that it holds; None if it has none.

    Raises CheckpointError if it is not what was written.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"damaged: {where} holds a {type(content).__name__} where a JSON object is expected")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if (SEAL in content or HASHES in content) and content.get(SEAL) != _hash_of(rest):
        raise CheckpointError(f"damaged: {where} is not what was written there")
    stored = rest.get(HASHES)
    if stored is not None and not isinstance(stored, dict):
        raise CheckpointError(f"damaged: {where} holds a {type(stored).__name__} where the hashes should be")
    return {key: value for key, value in rest.items() if key != HASHES}, stored


def _hash_of(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


# ------------------------------------------------------------------------------------- a run's state, on its devices


def of_state(state: Any) -> dict[str, Hashes]:
    """The hashes of a state's arrays, the same in all processes: of each shard by its place, as it lies on the devices.

    An array that one device holds whole has one hash, so that it reads the same from one device and from replicas.
    Every process hashes the shards that are the first replica of their place, and all exchange what they found.
    """
    parts: dict[tuple[str, str], Any] = {}
    for name, leaf in _named(state):
        if isinstance(leaf, jax.Array):
            own = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
            parts |= {(name, _place(shard.index, leaf.shape)): np.asarray(shard.data) for shard in own}
        else:
            parts[name, ""] = np.asarray(leaf)
    own_hashes = [[name, place, value] for (name, place), value in digests(parts.items()).items()]
    hashes: dict[str, Any] = {}
    for text in distributed.exchange("hashes", json.dumps(own_hashes)):
        for name, place, value in json.loads(text):
            if place:
                hashes.setdefault(name, {})[place] = value
            else:
                hashes[name] = value
    return hashes


def check_state(state: Any, stored: Mapping[str, Hashes] | None, where: str) -> None:
    """As `check`, of a state on its devices, which may be other ones than it was saved from. All processes call it.

    Arrays that lie as they were saved are checked by shards, each process its own; others are brought together first.
    """
    if stored is None:
        check(dict(_own_arrays(state)), None, where)
        return
    parts: dict[tuple[str, str], Any] = {}
    for name, leaf in _named(state):
        places = _places(stored, name, np.shape(leaf), where)
        shards = {}
        if isinstance(leaf, jax.Array):
            shape = leaf.shape
            if {_place(index, shape) for index in leaf.sharding.devices_indices_map(shape).values()} == set(places):
                shards = {_place(shard.index, shape): np.asarray(shard.data) for shard in leaf.addressable_shards}
            elif not leaf.is_fully_addressable and not leaf.is_fully_replicated:
                leaf = multihost_utils.process_allgather(leaf, tiled=True)
        shards = shards or {place: np.asarray(leaf)[_slices(place)] for place in places}
        parts |= {(name, place): (array, places[place]) for place, array in shards.items()}
    _check_parts(parts, where)


def _named(state: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of a tree of any kind, as `trainable/aggregator/head/bias`."""
    leaves = jax.tree.leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _own_arrays(state: Any) -> Iterator[tuple[str, np.ndarray]]:
    """What this process holds, by name and place."""
    for name, leaf in _named(state):
        for shard in leaf.addressable_shards if isinstance(leaf, jax.Array) else ():
            yield f"{name} {_place(shard.index, leaf.shape)}".strip(), np.asarray(shard.data)


def _place(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """A shard's place as text, `0:4,8:16`; empty for the whole array."""
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    if all(bound == (0, size) for bound, size in zip(bounds, shape, strict=True)):
        return ""
    return ",".join(f"{start}:{end}" for start, end in bounds)


def _slices(place: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, part.split(":"))) for part in place.split(",")) if place else ()
