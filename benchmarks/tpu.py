"""Roofline and padding of the real programs on one TPU chip, from programs compiled for it on any machine with libtpu.

    pip install -e ".[tpu,bench]"
    python -m benchmarks.tpu                     # training step and inference, one v5e and one v6e chip: minutes
    python -m benchmarks.tpu --keep FOLDER       # programs are kept there, and not compiled again
    python -m benchmarks.tpu --finish            # up to the machine code, for XLA's own estimate: half an hour
    python -m benchmarks.report

Nothing runs on a TPU: every time is an estimate. Each program's record goes to the result file as soon as it is there.
"""

import argparse
import dataclasses
import gzip
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ahs_seg_jax.ahead_of_time import programs, tpu_compiler
from ahs_seg_jax.config import Experiment, training
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.storage import writing
from benchmarks import results_file, tpu_padding, traffic
from benchmarks.program_text import parse, runs
from benchmarks.tpu_chips import Chip, chip_of

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
BATCH = 16
WORKS = {  # their mode and the protocol of evaluation
    "training step": ("train", "cat_seg"),
    "inference, whole image": ("eval", "whole"),
    "inference, sliding window": ("eval", "cat_seg"),
}
KINDS = ("matrix work", "rearranging", "others")
REARRANGING = frozenset(["copy", "slice", "reshape", "transpose", "pad", "concatenate"])  # alone, not within others
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def experiment_of(size: str, work: str) -> Experiment:
    """The published recipe of a size at BATCH images."""
    mode, protocol = WORKS[work]
    found = dataclasses.replace(importlib.import_module(f"configs.{size}").experiment(), init=training.RANDOM_INIT)
    train = dataclasses.replace(found.train, batch_size=BATCH)
    evaluation = dataclasses.replace(found.eval, batch_size=BATCH, protocol=protocol)
    return dataclasses.replace(found, mode=mode, train=train, eval=evaluation)


def compiled(experiment: Experiment, topology: str, finish: bool) -> str:
    """The program's text: as planned, or, to the machine code, with the compiler's estimate beside each operation."""
    if not finish:
        return tpu_compiler.planned(experiment, experiment.mode, topology).program
    os.environ.update(tpu_compiler.ENVIRONMENT)
    mesh = make_mesh(programs.topology_devices(topology), experiment.mesh)
    return programs.lower(experiment, experiment.mode, mesh).compile().as_text()


def kept(folder: pathlib.Path | None, name: str, make: Any) -> str:
    """What `make()` gives, or the folder's copy of it."""
    path = folder / f"{name}.hlo.gz" if folder else None
    if path and path.exists():
        return gzip.decompress(path.read_bytes()).decode()
    program = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_bytes(path, gzip.compress(program.encode(), compresslevel=3))
    return program


def cycles(program: str) -> dict[str, int]:
    """XLA's own estimate of a program compiled to its end, in cycles by KINDS, loops as often as they run.

    Empty: the program was not compiled so far. Copies between memories have none; they run beside the others.
    """
    computations, entry = parse(program)
    products = {name for name, lines in computations.items() if any(line.opcode == "convolution" for line in lines)}
    found: dict[str, int] = {}
    for name, times in runs(computations, entry).items():
        for line in computations.get(name, ()):
            if estimated := _CYCLES.search(line.text):
                matrix = line.opcode == "convolution" or not products.isdisjoint(line.called)
                kind = KINDS[0] if matrix else KINDS[1] if line.opcode in REARRANGING else KINDS[2]
                found[kind] = found.get(kind, 0) + times * int(estimated[1])
    return found


def figures(program: str, chip: Chip) -> dict[str, Any]:
    """What a record says of a program: seconds, bytes, floating-point operations."""
    parts = tpu_padding.by_part(program, chip.unit)
    whole, moved = tpu_padding.total(list(parts.values())), traffic.bytes_moved(program)
    compute, memory = chip.compute_seconds(whole.useful), chip.memory_seconds(moved)
    estimated = {kind: count / (chip.gigahertz * 1e9) for kind, count in cycles(program).items()}
    return {
        "flops": whole.useful,
        "padded_flops": whole.padded,
        "padding_waste": whole.waste,
        "unit_waste": whole.unit_waste,
        "moved": moved,
        "roofline": {"seconds": max(compute, memory), "bound_by": "compute" if compute > memory else "memory"},
        "compute_seconds": compute,
        "padded_compute_seconds": chip.compute_seconds(whole.padded),
        "memory_seconds": memory,
        "estimated_seconds": sum(estimated.values()) if estimated else None,
        "estimated_by_kind": estimated,
        "parts": {
            name: dataclasses.asdict(work) | {"waste": work.waste, "unit_waste": work.unit_waste}
            for name, work in parts.items()
        },
    }


def records(
    size: str, chips: Sequence[str], works: Sequence[str], keep: pathlib.Path | None, finish: bool
) -> Iterator[Any]:
    """One record for each chip and work, as soon as it is made."""
    for chip in chips:
        for work in works:
            experiment, topology = experiment_of(size, work), f"{chip}:1x1"
            name = f"{size} {work} {chip}".replace(",", "").replace(" ", "_") + ("_finished" if finish else "")
            program = kept(keep, name, lambda: compiled(experiment, topology, finish))  # noqa: B023  called at once
            asked = {"size": size, "chip": chip, "work": work, "batch": BATCH, "dtype": experiment.model.dtype}
            yield {
                "key": results_file.key("tpu", asked),
                "name": "tpu",
                **asked,
                **figures(program, chip_of(topology)),
                "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
            }


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="benchmarks.tpu", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="vitb")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the compiled programs' texts")
    parser.add_argument("--finish", action="store_true", help="compile to the machine code")
    parser.add_argument("--output", type=pathlib.Path, help="result file; by default benchmarks/results/tpu_SIZE.json")
    options = parser.parse_args(argv)
    output = options.output or RESULTS / f"tpu_{options.size}.json"
    for record in records(options.size, options.chips, options.works, options.keep, options.finish):
        results_file.add(output, record)
        shown = {name: record[name] for name in ("chip", "work", "padding_waste", "roofline", "estimated_seconds")}
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
