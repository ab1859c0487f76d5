"""The tree of parameters: by names, in parts, merged, summarised, hashed, and whether it is finite."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, Any]  # nested dictionaries of arrays

_ALIGNMENT = 64  # bytes; XLA takes an array of the host as it lies there only where it begins at such an address
_CHUNK = 1 << 20  # elements a step of the statistics, so that no large float64 copy is made


def flatten(tree: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) of nested dictionaries; a name is the path, joined by `/`."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from name -> leaf."""
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """A new float32 array whose values are arbitrary, which a CPU device need not copy (`jax.device_put`)."""
    size = 4 * math.prod(shape)
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(np.float32).reshape(shape)


def merge(trainable: Params, frozen: Params) -> dict[str, Any]:
    """The whole parameter tree again, from the two that `optimizer.split` made."""
    return unflatten(dict(flatten(trainable)) | dict(flatten(frozen)))


def by_name(function: Callable[[str], Any], params: Params) -> dict[str, Any]:
    """A tree like `params` with `function(name)` in place of each parameter."""
    return unflatten({name: function(name) for name, _ in flatten(params)})


def part_of(path: str) -> str:
    """The part of the model a parameter belongs to: `clip/image`, `clip/text`, `aggregator`, ..."""
    first, _, rest = path.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "clip" and "/" in rest else first


def params_sha256(params: Any) -> str:
    """Hash of a parameter tree: names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)):
        values = np.asarray(leaf)
        digest.update(f"{path} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def not_finite(leaves: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of the arrays (NumPy, or on devices) that hold NaN or an infinity."""
    return [name for name, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating) and not _is_finite(leaf)]


def _is_finite(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and leaf.devices() and next(iter(leaf.devices())).platform != "cpu":
        return bool(jnp.isfinite(leaf).all())
    flat = np.asarray(leaf).reshape(-1)
    if flat.dtype in (np.float32, np.float64):  # BLAS reads it three times faster; sums of large squares overflow
        with np.errstate(all="ignore"):
            if np.isfinite(np.dot(flat, flat)):
                return True
    return bool(np.isfinite(flat.astype(np.float32) if flat.dtype.itemsize < 4 else flat).all())


def listed(names: list[str], most: int = 3) -> str:
    """Some names as text: `a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def statistics(leaves: Iterable[tuple[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Part of the model -> number of parameters, mean, standard deviation, least and greatest value."""
    sums: dict[str, list[float]] = {}
    for path, leaf in leaves:
        total = sums.setdefault(part_of(path), [0, 0.0, 0.0, np.inf, -np.inf])
        flat = np.asarray(leaf).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK].astype(np.float64)
            total[0] += chunk.size
            total[1] += float(chunk.sum())
            total[2] += float(chunk @ chunk)
            total[3] = min(total[3], float(chunk.min()))
            total[4] = max(total[4], float(chunk.max()))
    return {part: _summary(*total) for part, total in sorted(sums.items())}


def _summary(count: float, total: float, squares: float, low: float, high: float) -> dict[str, float]:
    mean = total / count
    std = max(squares / count - mean**2, 0.0) ** 0.5
    return {"parameters": int(count), "mean": mean, "std": std, "min": low, "max": high}
