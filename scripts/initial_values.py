"""The table of initial values in `docs/curves.md`: standard deviations of fresh kernels and biases.

    python scripts/initial_values.py            # ViT-B/16 and ViT-L/14; writes the table

Ours are drawn as a training from CLIP draws them, PyTorch's by PyTorch's own modules of the same shapes (pip install
'ahs_seg_jax[convert]'); the rule is a uniform distribution within +-1/sqrt(fan_in), which has 1/sqrt(3 fan_in).
`tests/models/test_initial.py` checks every parameter; the table shows one row for each kind of layer.
"""

import argparse
import collections
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the folder of a script there

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.models import architecture, parameters

MARKS = ("<!-- initial values -->", "<!-- end initial values -->")
HEADER = "| layers | count | fan_in | rule | ours | PyTorch |\n| --- | --- | --- | --- | --- | --- |"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(architecture.PRESETS), default=["vitb16", "vitl14_336"])
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs" / "curves.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table between its marks."""
    args = parse(arguments)
    made = "\n\n".join(f"{size}:\n\n{table(size)}" for size in args.sizes)
    before, _, rest = args.page.read_text(encoding="utf-8").partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        print(f"error: {args.page} has no line {MARKS[0]} with {MARKS[1]} after it", file=sys.stderr)
        return 2
    args.page.write_text(f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}", encoding="utf-8")
    return 0


def table(size: str) -> str:
    """Markdown: one row for each kind of layer, its digits written as N; spreads of several are ranges."""
    kinds: dict[str, list[tuple[int, float, float]]] = collections.defaultdict(list)
    for name, fan_in, our_spread, their_spread in rows(size):
        kinds[re.sub(r"\d+", "N", name)].append((fan_in, our_spread, their_spread))
    lines = [HEADER]
    for kind, found in kinds.items():
        fan_ins, ours, theirs = (sorted({row[column] for row in found}) for column in range(3))
        rule = [(3 * fan_in) ** -0.5 for fan_in in reversed(fan_ins)]
        texts = [_range(fan_ins, "d"), _range(rule, ".4f"), _range(ours, ".4f"), _range(theirs, ".4f")]
        lines.append(f"| `{kind}` | {len(found)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def rows(size: str) -> Iterator[tuple[str, int, float, float]]:
    """(name, fan_in, our standard deviation, PyTorch's) of each fresh kernel and bias of 100 numbers or more."""
    import torch

    torch.manual_seed(0)
    config = architecture.PRESETS[size]()
    experiment = Experiment(seed=0, model=config)
    values = dict(parameters.flatten(jax.jit(lambda: starting.fresh_params(experiment))()))
    for entry in layouts.entries("ahs_seg", config):
        if entry.target.startswith("clip/") or entry.transform not in ("linear", "conv", "conv_transpose"):
            continue
        module, fan_in = _module(torch, entry)
        bias = entry.target.removesuffix("kernel") + "bias"
        for name, tensor in ((entry.target, module.weight), (bias, module.bias)):
            drawn = np.asarray(values.get(name, ()))
            if drawn.size >= 100 and drawn.std() > 0 and entry.target.endswith("kernel"):
                yield name, fan_in, float(drawn.std()), float(tensor.detach().numpy().std())


def _module(torch: Any, entry: layouts.Entry) -> tuple[Any, int]:
    """PyTorch's module whose weight has the shape that a checkpoint's file has, and its fan_in."""
    first, second, *side = entry.shape
    if entry.transform == "linear":
        return torch.nn.Linear(second, first), second
    if entry.transform == "conv_transpose":
        return torch.nn.ConvTranspose2d(first, second, side, stride=side), second * int(np.prod(side))
    groups = first if entry.target.endswith("depthwise/kernel") else 1
    inputs = first if groups > 1 else second
    return torch.nn.Conv2d(inputs, first, side, groups=groups), second * int(np.prod(side))


def _range(values: Sequence[float], form: str) -> str:
    first, last = format(values[0], form), format(values[-1], form)
    return first if first == last else f"{first} to {last}"


if __name__ == "__main__":
    sys.exit(main())
