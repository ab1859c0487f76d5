"""The least time of the real programs on one TPU chip, from programs compiled for it on any machine with libtpu.

    pip install -e ".[tpu,bench]"
    python -m benchmarks.tpu.estimate                     # training step and inference, a v5e and a v6e chip: minutes
    python -m benchmarks.tpu.estimate --keep FOLDER       # compiled programs are kept there, and not compiled again
    python -m benchmarks.tpu.estimate --finish            # up to the machine code, for XLA's own estimate: half an hour
    python -m benchmarks.report

Nothing runs on a TPU: every time is an estimate. Each program's record goes to the result file as soon as it is there.
"""

import argparse
import dataclasses
import functools
import gzip
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ahs_seg_jax import config
from ahs_seg_jax.ahead_of_time import programs, tpu_compiler
from ahs_seg_jax.config import Experiment, MeshConfig
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary.tokenizer import CLIP
from benchmarks import results_file
from benchmarks.counting import flops, program_text, traffic
from benchmarks.tpu.chips import Chip, chip_of

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
BATCH = 16
WORKS = {  # the mode of each work, and the protocol of its evaluation
    "training step": ("train", "cat_seg"),
    "inference, whole image": ("eval", "whole"),
    "inference, sliding window": ("eval", "cat_seg"),
}
KINDS = ("matrix work", "rearranging", "others")
REARRANGING = frozenset(["copy", "slice", "reshape", "transpose", "pad", "concatenate"])  # alone, not within others
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def stay_on_cpu() -> None:
    """Keeps JAX on the CPU, and libtpu from looking for a TPU in Google's cloud. Must be called before JAX is used."""
    os.environ.update(tpu_compiler.ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")


def experiment_of(
    size: str, mode: str, batch: int, *, protocol: str = "", mesh: MeshConfig | None = None, accumulation: int = 1
) -> Experiment:
    """The recipe of a size, which is the name of a configuration (`vitb`, `siglip2_vitl`), with another batch.

    Where `protocol` is empty and `mesh` is None, the recipe's own are taken. Words are as long as CLIP's tokens, so
    that no tokenizer.json is needed.
    """
    found = dataclasses.replace(importlib.import_module(f"configs.{size}").experiment(), init=config.RANDOM_INIT)
    text = dataclasses.replace(found.model.text, tokenizer=CLIP)
    found = dataclasses.replace(found, model=found.model.replace(text=text))
    train = dataclasses.replace(found.train, batch_size=batch, accumulation=accumulation)
    evaluation = dataclasses.replace(found.eval, batch_size=batch, protocol=protocol or found.eval.protocol)
    return dataclasses.replace(found, mode=mode, mesh=mesh or found.mesh, train=train, eval=evaluation)


@functools.cache
def work_of_images(size: str, mode: str, protocol: str = "") -> tuple[float, float]:
    """Floating-point operations of a step: those that do not depend on the images, and those of each image."""

    def work(batch: int) -> float:
        mesh = make_mesh(jax.devices()[:1])
        program, arguments = programs.program(experiment_of(size, mode, batch, protocol=protocol), mode, mesh)
        return flops.count(program, *arguments).flops

    one, two = work(1), work(2)
    return 2 * one - two, two - one


def compiled(experiment: Experiment, topology: str, finish: bool) -> str:
    """The text of the experiment's compiled program.

    With `finish` it is compiled to the machine code, and the text has the compiler's estimate beside each operation.
    Without, the compiler stops where it has decided everything else, which takes minutes in place of half an hour.
    """
    if not finish:
        return tpu_compiler.planned(experiment, experiment.mode, topology).program
    mesh = make_mesh(programs.topology_devices(topology), experiment.mesh)
    return programs.lower(experiment, experiment.mode, mesh).compile().as_text()


def kept(folder: pathlib.Path | None, name: str, make: Callable[[], str]) -> str:
    """The folder's copy of a program's text; if there is none, what `make()` gives, which is then kept there."""
    path = folder / f"{name}.hlo.gz" if folder else None
    if path and path.exists():
        return gzip.decompress(path.read_bytes()).decode()
    program = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_bytes(path, gzip.compress(program.encode(), compresslevel=3))
    return program


def cycles(program: str) -> dict[str, int]:
    """XLA's own estimate of a program compiled to its end: cycles by KINDS, loops counted as often as they run.

    The result is empty if the program was not compiled to its end. Copies between memories count no cycles: they run at
    the same time as other operations.
    """
    computations, entry = program_text.parse(program)
    products = {name for name, lines in computations.items() if any(line.opcode == "convolution" for line in lines)}
    found: dict[str, int] = {}
    for name, times in program_text.runs(computations, entry).items():
        for line in computations.get(name, ()):
            if estimated := _CYCLES.search(line.text):
                matrix = line.opcode == "convolution" or not products.isdisjoint(line.called)
                kind = KINDS[0] if matrix else KINDS[1] if line.opcode in REARRANGING else KINDS[2]
                found[kind] = found.get(kind, 0) + times * int(estimated[1])
    return found


def figures(program: str, chip: Chip, work: float) -> dict[str, Any]:
    """What a record says of a program that does `work` floating-point operations: seconds, bytes, operations."""
    moved = traffic.bytes_moved(program)
    compute, memory = chip.compute_seconds(work), chip.memory_seconds(moved)
    estimated = {kind: count / (chip.gigahertz * 1e9) for kind, count in cycles(program).items()}
    return {
        "flops": work,
        "moved": moved,
        "roofline": {"seconds": max(compute, memory), "bound_by": "compute" if compute > memory else "memory"},
        "compute_seconds": compute,
        "memory_seconds": memory,
        "estimated_seconds": sum(estimated.values()) if estimated else None,
        "estimated_by_kind": estimated,
    }


def records(
    size: str, chips: Sequence[str], works: Sequence[str], keep: pathlib.Path | None, finish: bool
) -> Iterator[Any]:
    """One record for each chip and work, as soon as it is made."""
    for chip in chips:
        for work in works:
            mode, protocol = WORKS[work]
            experiment, topology = experiment_of(size, mode, BATCH, protocol=protocol), f"{chip}:1x1"
            fixed, each = work_of_images(size, mode, protocol)
            name = f"{size} {work} {chip}".replace(",", "").replace(" ", "_") + ("_finished" if finish else "")
            program = kept(keep, name, lambda: compiled(experiment, topology, finish))  # noqa: B023  called at once
            asked = {"size": size, "chip": chip, "work": work, "batch": BATCH, "dtype": experiment.model.dtype}
            yield {
                "key": results_file.key("tpu", asked),
                "name": "tpu",
                **asked,
                **figures(program, chip_of(topology), fixed + BATCH * each),
                "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
            }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.tpu.estimate", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="vitb")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the compiled programs' texts")
    parser.add_argument("--finish", action="store_true", help="compile to the machine code")
    parser.add_argument("--output", type=pathlib.Path, help="result file; by default benchmarks/results/tpu_SIZE.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    options = parse(argv)
    stay_on_cpu()
    output = options.output or RESULTS / f"tpu_{options.size}.json"
    for record in records(options.size, options.chips, options.works, options.keep, options.finish):
        results_file.add(output, record)
        shown = {name: record[name] for name in ("chip", "work", "roofline", "estimated_seconds")}
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
