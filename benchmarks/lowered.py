"""What real programs hand to a GPU's compiler: products in float32, calls of the host, transposes; no GPU is needed.

    python -m benchmarks.lowered                                   # training and inference of the published size
    python -m benchmarks.lowered --size vitl --works train

Programs are lowered to StableHLO for the platform, as `jax.export` does it, and nothing is compiled: what XLA makes of
them is not seen here. A place is the function of this package in which an operation was written; a gradient's
operations carry the place of what they are the gradient of.
"""

import argparse
import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

PLATFORMS = ("cuda", "rocm", "tpu", "cpu")
WORKS = {"train": ("train", "cat_seg"), "whole": ("eval", "whole"), "sliding": ("eval", "cat_seg")}
PRODUCTS = ("stablehlo.dot_general", "stablehlo.convolution")
TO_HOST = ("stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv")
PACKAGE = "ahs_seg_jax/"
# Functions that everything calls: the place is their caller's.
HELPERS = ("models/layers.py", "models/ops/products.py", "models/ops/resize.py", "models/ops/chunks.py")
SHOWN = 15  # of the transposes, the largest
_FRAME = re.compile(r'"([^"]*?)"\("([^"]+?\.py)":\d+')
_NUMBERS = re.compile(r"tensor<((?:\d+x)*)(\w+)>")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a lowered program."""

    name: str  # dot_general, convolution, transpose
    place: str  # file and function of this package
    operands: tuple[str, ...]  # their types, such as tensor<5x7xbf16>

    @property
    def wide(self) -> bool:
        """Whether it reads float32."""
        return any(text.endswith("f32>") and not text.endswith("bf16>") for text in self.operands)

    @property
    def size(self) -> int:
        """Numbers of its largest operand."""
        found = [_NUMBERS.match(text) for text in self.operands]
        return max(math.prod(int(n) for n in one[1].split("x") if n) for one in found if one)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """What matters of a program that was lowered for a platform."""

    products: tuple[Operation, ...]
    transposes: tuple[Operation, ...]
    to_host: tuple[str, ...]  # what leaves the device while the program runs
    calls: tuple[str, ...]  # other custom calls, such as cuDNN's kernels
    loops: int

    def wide_places(self) -> dict[str, int]:
        """Where products of float32 stand, and how many there are."""
        return dict(collections.Counter(one.place for one in self.products if one.wide))


def lowered(function: Callable[..., Any], *args: Any, platform: str = "cuda") -> Lowered:
    """`function(*args)` lowered for a platform; `args` may be shapes."""
    jitted: Any = function if hasattr(function, "trace") else jax.jit(function)
    module = jitted.trace(*args).lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
    operations = list(_operations(module.operation))
    named = lambda *names: (op for op in operations if op.name in names)
    targets = [str(op.attributes["call_target_name"]).strip('"') for op in named("stablehlo.custom_call")]
    back = [target for target in targets if "callback" in target]
    return Lowered(
        products=tuple(_described(op) for op in named(*PRODUCTS)),
        transposes=tuple(_described(op) for op in named("stablehlo.transpose")),
        to_host=(*(op.name for op in named(*TO_HOST)), *back),
        calls=tuple(target for target in targets if target not in back),
        loops=len(list(named("stablehlo.while"))),
    )


def _operations(operation: Any) -> Iterator[Any]:
    yield operation
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from _operations(inner.operation)


def _described(operation: Any) -> Operation:
    name = operation.name.removeprefix("stablehlo.")
    return Operation(name, place(str(operation.location)), tuple(str(operand.type) for operand in operation.operands))


def place(location: str) -> str:
    """`models/decoder.py upsample`: the innermost function of this package in a location that is none of HELPERS."""
    frames = [(path.partition(PACKAGE)[2], name) for name, path in _FRAME.findall(location) if PACKAGE in path]
    outer = [frame for frame in frames if frame[0] not in HELPERS]
    path, name = next(iter(outer or frames), ("", "elsewhere"))
    return f"{path} {name.split('.<locals>')[0]}".strip()


def report(title: str, found: Lowered) -> str:
    """Lines for people."""
    wide = found.wide_places()
    lines = [
        f"{title}: {len(found.products)} products, {sum(wide.values())} of them in float32; {found.loops} loops",
        f"  to the host: {', '.join(found.to_host) or 'nothing'}; other calls: {', '.join(found.calls) or 'none'}",
        *(f"  float32 {count:4} x {where}" for where, count in sorted(wide.items())),
    ]
    largest = sorted(found.transposes, key=lambda one: -one.size)[:SHOWN]
    return "\n".join([*lines, *(f"  transpose {one.operands[0]} in {one.place}" for one in largest)])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.lowered", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("vitb", "vitl"), default="vitb")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--platform", choices=PLATFORMS, default="cuda")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    from ahs_seg_jax.ahead_of_time import programs  # only here: the functions above need none of it
    from ahs_seg_jax.devices.mesh import make_mesh
    from benchmarks.tpu.estimate import experiment_of

    options = parse(argv)
    mesh = make_mesh(jax.devices()[:1])
    for work in options.works:
        mode, protocol = WORKS[work]
        experiment = experiment_of(options.size, mode, options.batch, protocol=protocol)
        function, arguments = programs.program(experiment, mode, mesh)
        title = f"{options.size}, {work}, batch {options.batch}, {experiment.model.dtype}, {options.platform}"
        print(report(title, lowered(function, *arguments, platform=options.platform)), flush=True)


if __name__ == "__main__":
    main()
