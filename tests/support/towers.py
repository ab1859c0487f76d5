"""Published programs' towers and ours: parameters by a layout's table, and the comparison of values."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.formats.entry import Entry, target_shapes
from ahs_seg_jax.models import parameters


def filled(table: Iterable[Entry], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Our nested parameters from the tensors (NumPy or torch) of a file with these names."""
    table = list(table)
    leaves = {path: np.empty(shape, np.float32) for path, shape in target_shapes(table).items()}
    for entry in table:
        tensor = np.asarray(tensors[entry.source].detach()) if hasattr(tensors[entry.source], "detach") else None
        tensor = tensors[entry.source] if tensor is None else tensor
        leaves[entry.target][... if entry.layer is None else entry.layer] = entry.forward(tensor)
    return parameters.unflatten(leaves)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` of the largest value."""
    expected = np.asarray(expected.detach() if hasattr(expected, "detach") else expected)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def shaken(model: Any, by: float = 0.1) -> Any:
    """A torch model whose parameters are moved, so that none is zero or one; in the state of inference."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model.eval()


def compare_gradients(entries: Iterable[Entry], found: Any, expected: Mapping[str, Any], tolerance: float) -> None:
    """Of every tensor whose published gradient is among `expected`; `found` are ours, nested."""
    leaves = dict(parameters.flatten(found))
    compared = [entry for entry in entries if entry.source in expected]
    assert {entry.source for entry in compared} == set(expected)
    for entry in compared:
        ours = leaves[entry.target.split("/", 2)[2]]
        ours = ours if entry.layer is None else ours[entry.layer]
        # By the largest value of the whole tensor: a bias of keys changes nothing, so that its gradient is rounding.
        whole = np.asarray(expected[entry.source])
        bound = tolerance * np.abs(whole).max()
        np.testing.assert_allclose(entry.inverse(np.asarray(ours)), entry.select(whole), atol=bound, rtol=0)
