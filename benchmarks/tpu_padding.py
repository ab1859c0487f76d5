"""How much of a TPU program's matrix work is padding, read from the compiled program's text.

A TPU keeps arrays in tiles: `bf16[577,768]{1,0:T(8,128)(2,1)}` has its last axis in multiples of 128 and the one before in
multiples of 8, so 577 rows are worked through as 584. Of each product and convolution (the compiler writes both as
`convolution`) every axis counts as long as the most padded of the arrays that have it: the image, the kernel, the result.
Axes that lie outside the tiles are never padded.

A second figure asks more: what the matrix unit would leave unused even if everything were laid out perfectly, because it
takes `unit` x `unit` numbers at a time: the contracted axes, and the larger of the two others, in multiples of `unit`.

Zeros in the kernels of the decoder's blocks (`blocks.SPARSE`) count as padding too.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

from ahs_seg_jax.models import tpu_decoder
from benchmarks import cost
from benchmarks.program_text import UNKNOWN_TRIPS, Instruction, parse, runs

# Whose work it is, by the first pattern that the operation's name has.
PARTS = (
    ("rotations", r"clip\.rotations|l[jr]\w*,l[jr]\w*->"),
    ("text tower", r"encode_text"),
    ("image tower", r"encode_image"),
    ("pyramid", r"mh_fpn"),
    ("projection", r"dc_hsp"),
    ("guidance", r"guide_"),
    ("spatial layers", r"/spatial"),
    ("class layers", r"/class"),
    ("decoder", r"\.decode|upsample"),
    ("correlation", r"correlate|embed|_image/dot_general"),
    ("losses", r"jvp\(\)|bthw,bhwe->te"),
)

_SHAPE = re.compile(r"^[a-z0-9]+\[([0-9,]*)\](?:\{([0-9,]*)(?::T\(([0-9,]+)\))?)?")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations of matrix products, a multiply-add counted as two."""

    useful: float = 0.0
    padded: float = 0.0  # with the tiles filled up
    unit: float = 0.0  # as the matrix unit takes them, at best

    def __add__(self, other: "Work") -> "Work":
        return Work(self.useful + other.useful, self.padded + other.padded, self.unit + other.unit)

    def __mul__(self, times: float) -> "Work":
        return Work(self.useful * times, self.padded * times, self.unit * times)

    @property
    def waste(self) -> float:
        """The share of the padded work that is padding."""
        return 1 - self.useful / self.padded if self.padded else 0.0

    @property
    def unit_waste(self) -> float:
        """The share of the matrix unit's work that is padding."""
        return 1 - self.useful / self.unit if self.unit else 0.0


@dataclasses.dataclass(frozen=True)
class Array:
    """Lengths of an array's axes, as they are and as they lie in tiles."""

    shape: tuple[int, ...]
    padded: tuple[int, ...]

    def ratio(self, axis: int) -> float:
        """How much longer the axis lies in memory."""
        return self.padded[axis] / self.shape[axis] if self.shape[axis] else 1.0


def array(kind: str) -> Array:
    """`bf16[5,3]{1,0:T(8,128)(2,1)}` -> Array((5, 3), (8, 128)): the tile's last number is of the axis named first."""
    found = _SHAPE.match(kind)
    assert found, kind
    shape, order, tile = ([int(n) for n in (group or "").split(",") if n] for group in found.groups())
    padded = list(shape)
    for axis, side in zip(order, reversed(tile), strict=False):
        padded[axis] = -(-shape[axis] // side) * side
    return Array(tuple(shape), tuple(padded))


@dataclasses.dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: pairs of output and kernel positions that meet the image, and its padding."""

    pairs: int
    ratio: float
    batch: bool  # each position of image, kernel and result meets its own only
    contracted: bool  # it is summed up


def _axis(
    image: Array, kernel: Array, out: Array, at: tuple[int, int, int], window: dict[str, str], index: int
) -> Axis:
    def setting(name: str, default: str) -> str:
        return window[name].split("x")[index] if name in window else default

    lengths = [part.shape[axis] for part, axis in zip((image, kernel, out), at, strict=True)]
    ratios = [part.ratio(axis) for part, axis in zip((image, kernel, out), at, strict=True)]
    pairs = cost.valid_taps(
        *lengths,
        stride=int(setting("stride", "1")),
        padding=int(setting("pad", "0_0").split("_")[0]),
        image_dilation=int(setting("lhs_dilate", "1")),
        kernel_dilation=int(setting("rhs_dilate", "1")),
    )
    if pairs == max(lengths):  # each position counts once: an axis of a batch, one that is summed, a kernel of one
        ratio = max(ratio for ratio, length in zip(ratios, lengths, strict=True) if length == pairs)
    else:
        ratio = ratios[1] * ratios[2]
    return Axis(pairs, ratio, lengths[0] == lengths[1] == lengths[2] == pairs > 1, lengths[2] == 1 < pairs)


def _fill(length: int, side: int) -> float:
    return math.ceil(length / side) * side / length if length else 1.0


def convolution(line: Instruction, image: Array, kernel: Array, out: Array, unit: int) -> Work:
    """The work of one `convolution`."""
    labels = _LABELS.search(line.text)
    assert labels, line.text
    of_image, of_kernel, of_out = labels.groups()
    window = dict(part.split("=") for part in found[1].split()) if (found := _WINDOW.search(line.text)) else {}
    axes = [
        _axis(image, kernel, out, (of_image.index(n), of_kernel.index(n), of_out.index(n)), window, int(n))
        for n in sorted(set(of_image) - set("bf"))
    ]
    rows, columns = out.shape[of_out.index("b")], out.shape[of_out.index("f")]
    depth = kernel.shape[of_kernel.index("i")]
    useful = 2.0 * rows * columns * depth * math.prod(axis.pairs for axis in axes)
    tiled = math.prod(axis.ratio for axis in axes)
    tiled *= max(image.ratio(of_image.index("b")), out.ratio(of_out.index("b")))
    tiled *= max(image.ratio(of_image.index("f")), kernel.ratio(of_kernel.index("i")))
    tiled *= max(kernel.ratio(of_kernel.index("o")), out.ratio(of_out.index("f")))
    summed = math.prod(axis.pairs for axis in axes if axis.contracted)
    beside = math.prod(
        out.shape[of_out.index(n)]
        for n, axis in zip(sorted(set(of_out) - set("bf")), axes, strict=True)
        if not axis.batch
    )
    filled = _fill(depth * summed, unit) * _fill(max(rows * beside, columns), unit)
    return Work(useful, useful * tiled, useful * filled)


def part_of(name: str) -> str:
    """The part of the model that an operation's name belongs to."""
    return next((part for part, pattern in PARTS if re.search(pattern, name)), "other")


def _works(program: str, unit: int, unknown: int) -> Iterator[tuple[str, Work]]:
    computations, entry = parse(program)
    for name, times in runs(computations, entry, unknown).items():
        lines = {line.name: line for line in computations.get(name, ())}
        for line in lines.values():
            if line.opcode == "convolution":
                image, kernel = (array(lines[operand].kind) for operand in line.operands)
                called = found[1] if (found := _NAME.search(line.text)) else ""
                work = convolution(line, image, kernel, array(line.kind), unit) * times
                filled = tpu_decoder.FILLED if tpu_decoder.SPARSE in called else 1.0
                yield called, dataclasses.replace(work, useful=work.useful * filled)


def by_part(program: str, unit: int, unknown_trips: int = UNKNOWN_TRIPS) -> dict[str, Work]:
    """The matrix work of the compiled program (text), by part of the model, the largest padded work first."""
    found: dict[str, Work] = collections.defaultdict(Work)
    for name, work in _works(program, unit, unknown_trips):
        found[part_of(name)] += work
    return dict(sorted(found.items(), key=lambda item: -item[1].padded))


def total(works: Sequence[Work]) -> Work:
    """All of it."""
    return functools.reduce(Work.__add__, works, Work())
