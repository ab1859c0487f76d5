"""Reading golden numbers: PyTorch names and layouts into ours, and comparison by the largest value."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from ahs_seg_jax.checkpoints.formats.entry import Entry


def parameters(stored: Mapping[str, np.ndarray], table: list[Entry], strip: str, prefix: str) -> dict:
    """Nested parameters from the stored tensors `prefix + name`, `name` being the table's without `strip`."""
    flat: dict[str, np.ndarray] = {}
    rows: dict[str, dict[int, np.ndarray]] = {}
    for entry in table:
        value = entry.forward(np.asarray(stored[prefix + entry.source.removeprefix(strip)]))
        if entry.layer is None:
            flat[entry.target] = value
        else:
            rows.setdefault(entry.target, {})[entry.layer] = value
    flat |= {name: np.stack([layers[i] for i in range(len(layers))]) for name, layers in rows.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def assert_close(actual: Any, expected: Any, tolerance: float, name: str = "") -> None:
    """Every element within `tolerance` of the largest absolute expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12)
    assert error <= tolerance, f"{name}: error {error:.2e} of the largest value exceeds {tolerance:.0e}"


def assert_trees_close(actual: dict, expected: dict, tolerance: float, zero: tuple[str, ...] = ()) -> None:
    """The same for every leaf; leaves whose path ends with one of `zero` are compared absolutely with zero."""
    actual = flax.traverse_util.flatten_dict(actual, sep="/")
    expected = flax.traverse_util.flatten_dict(expected, sep="/")
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if name.endswith(zero):
            assert np.abs(actual[name]).max() < tolerance, name
        else:
            assert_close(actual[name], value, tolerance, name)
