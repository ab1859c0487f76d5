"""One row of a checkpoint layout: a tensor of a file, the parameter of ours that it is, and the change of axes.

Axes in the files: linear `[out, in]`, convolution `[out, in, kh, kw]`, transposed convolution `[in, out, kh, kw]`.
Axes of ours: `[in, out]` and `[kh, kw, in, out]`, tower blocks stacked on a leading layer axis.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

_PERMUTATIONS = {"linear": (1, 0), "conv": (2, 3, 1, 0), "conv_transpose": (2, 3, 0, 1)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file, or one of `part[1]` equal slices of its first axis, and the parameter it fills.

    `layer` is the row of the parameter's leading axis; `aliases` are other names that hold the same tensor.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    transform: str = "same"
    layer: int | None = None
    part: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the slice of the file's tensor that this entry is about."""
        return (self.shape[0] // self.part[1], *self.shape[1:]) if self.part else self.shape

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape after the transform, without the layer axis."""
        shape = self.part_shape
        if self.transform in _PERMUTATIONS:
            return tuple(shape[axis] for axis in _PERMUTATIONS[self.transform])
        if self.transform == "token":  # [1, 1, c] -> [c]
            return shape[-1:]
        if self.transform == "first":  # [1, n, c] -> [n, c]
            return shape[1:]
        return () if self.transform == "scalar" else shape  # [1] -> []

    def select(self, tensor: np.ndarray) -> np.ndarray:
        """This entry's slice of the file's tensor (a view)."""
        if self.part is None:
            return tensor
        rows = self.part_shape[0]
        return tensor[self.part[0] * rows : (self.part[0] + 1) * rows]

    def forward(self, tensor: np.ndarray) -> np.ndarray:
        """File's tensor `shape` -> our parameter `target_shape` (a view)."""
        tensor = self.select(tensor)
        if self.transform in _PERMUTATIONS:
            return tensor.transpose(_PERMUTATIONS[self.transform])
        return tensor.reshape(self.target_shape)

    def inverse(self, parameter: np.ndarray) -> np.ndarray:
        """Our parameter `target_shape` -> this entry's slice of the file's tensor `part_shape` (a view)."""
        if self.transform in _PERMUTATIONS:
            axes = _PERMUTATIONS[self.transform]
            return parameter.transpose([axes.index(axis) for axis in range(len(axes))])
        return parameter.reshape(self.part_shape)


def target_shapes(table: list[Entry]) -> dict[str, tuple[int, ...]]:
    """Parameter path -> shape, layer axis included."""
    layers: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in table:
        shapes[entry.target] = entry.target_shape
        if entry.layer is not None:
            layers[entry.target] = max(layers.get(entry.target, 0), entry.layer + 1)
    return {name: (layers[name], *shape) if name in layers else shape for name, shape in shapes.items()}


def source_shapes(table: list[Entry]) -> dict[str, tuple[int, ...]]:
    """Name in the file -> shape, aliases included."""
    return {name: entry.shape for entry in table for name in (entry.source, *entry.aliases)}


def norm(source: str, target: str, width: int, layer: int | None = None) -> Iterator[Entry]:
    """Scale and bias of a LayerNorm or GroupNorm of `width` channels."""
    yield Entry(f"{source}.weight", f"{target}/scale", (width,), layer=layer)
    yield Entry(f"{source}.bias", f"{target}/bias", (width,), layer=layer)


def linear(source: str, target: str, n_in: int, n_out: int, layer: int | None = None) -> Iterator[Entry]:
    """Kernel and bias of a linear map."""
    yield Entry(f"{source}.weight", f"{target}/kernel", (n_out, n_in), "linear", layer)
    yield Entry(f"{source}.bias", f"{target}/bias", (n_out,), layer=layer)


def conv(source: str, target: str, n_in: int, n_out: int, side: int) -> Iterator[Entry]:
    """Kernel and bias of a convolution, `side` x `side`."""
    yield Entry(f"{source}.weight", f"{target}/kernel", (n_out, n_in, side, side), "conv")
    yield Entry(f"{source}.bias", f"{target}/bias", (n_out,))


def conv_transpose(source: str, target: str, n_in: int, n_out: int, side: int) -> Iterator[Entry]:
    """Kernel and bias of a transposed convolution, `side` x `side`."""
    yield Entry(f"{source}.weight", f"{target}/kernel", (n_in, n_out, side, side), "conv_transpose")
    yield Entry(f"{source}.bias", f"{target}/bias", (n_out,))
