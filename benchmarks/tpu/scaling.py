"""Compiles the real training and evaluation programs ahead of time for TPU slices, and writes docs/scaling.md.

    python -m benchmarks.tpu.scaling --sizes vitb --topologies v5e:2x2 --batches 16
    python -m benchmarks.tpu.scaling                # every combination; hours on a small machine
    python -m benchmarks.tpu.scaling --write-only   # compiles nothing, writes the page from docs/scaling.json
    python -m benchmarks.tpu.scaling --check        # changes nothing; fails if the page differs from scaling.json

Needs libtpu (`pip install ".[tpu,bench]"`) and no TPU. The figures of each combination go to docs/scaling.json as soon
as they are there, so that a run can be stopped and continued: what the file holds is not compiled again. Combinations
that do not fit or cannot be divided over the chips are kept with the cause.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from ahs_seg_jax.ahead_of_time import memory, programs, tpu_compiler
from ahs_seg_jax.config import MODES, MeshConfig
from ahs_seg_jax.devices import mesh as meshes
from ahs_seg_jax.errors import InputError
from ahs_seg_jax.storage import writing
from benchmarks import results_file
from benchmarks.counting import traffic
from benchmarks.tpu import scaling_page
from benchmarks.tpu.estimate import experiment_of, stay_on_cpu, work_of_images
from benchmarks.tpu.scaling_page import BATCHES, SIZES, TOPOLOGIES, Entry

ROOT = pathlib.Path(__file__).resolve().parents[2]
JSON, PAGE = ROOT / "docs" / "scaling.json", ROOT / "docs" / "scaling.md"
ONE_CHIP = ROOT / "benchmarks" / "results" / "tpu_vitb.json"


def measure(entry: Entry) -> Entry:
    """A combination with its figures, or with the `error` that says why it has none."""
    size, topology, mode, batch = (entry[name] for name in ("size", "topology", "program", "batch"))
    sizes, accumulation = MeshConfig(**entry["mesh"]), entry.get("accumulation", 1)
    started = time.monotonic()
    try:
        devices = programs.topology_devices(topology)
        mesh = meshes.make_mesh(devices, sizes)
        experiment = experiment_of(size, mode, batch, mesh=sizes, accumulation=accumulation)
        planned = tpu_compiler.planned(experiment, mode, topology)
    except (InputError, ValueError) as error:  # a combination that does not fit is a result too
        return entry | {"error": str(error).strip().splitlines()[0][:300]}
    found, (fixed, each) = memory.figures_ahead_of_time(planned), work_of_images(size, mode)
    entry = entry | {"mesh": dict(mesh.shape), "chips": len(devices), "peak": found.peak, "arguments": found.arguments}
    entry |= {
        "operations": fixed * accumulation + each * -(-batch // meshes.batch_shards(mesh)) / mesh.shape["classes"],
        "moved": traffic.bytes_moved(planned.program),
        "collectives": found.collectives,
    }
    return entry | {"compile_seconds": round(time.monotonic() - started, 1)}


def key(entry: Entry) -> str:
    """What tells one combination from another."""
    mesh = entry["mesh"]
    return (
        f"{entry['size']} {entry['topology']} {entry['program']} {entry['batch']} {mesh['fsdp']} {mesh['classes']}"
        + (f" {entry['accumulation']}" if entry.get("accumulation", 1) > 1 else "")
    )


def combinations(options: argparse.Namespace) -> list[Entry]:
    """The entries that were asked for, without figures."""
    mesh = dataclasses.asdict(MeshConfig(fsdp=options.fsdp, classes=options.classes))
    fixed = {"mesh": mesh} | ({"accumulation": options.accumulation} if options.accumulation > 1 else {})
    product = itertools.product(options.sizes, options.topologies, options.programs, options.batches)
    return [dict(zip(("size", "topology", "program", "batch"), names, strict=True)) | fixed for names in product]


def write_page(stored: dict[str, Any], check: bool) -> int:
    """Writes the page from the content of docs/scaling.json, or checks it; returns the exit code."""
    made = scaling_page.blocks(stored["entries"], stored["versions"], results_file.read(ONE_CHIP))
    text = results_file.marked(PAGE.read_text(encoding="utf-8"), made)
    return results_file.write_or_check({PAGE: text}, check, "run python -m benchmarks.tpu.scaling --write-only")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.tpu.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--programs", nargs="+", default=MODES)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--write-only", action="store_true", help="compile nothing, write the page")
    parser.add_argument("--check", action="store_true", help="compile and change nothing; fail if the page differs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring. Returns the exit code."""
    options = parse(argv)
    stored = json.loads(JSON.read_text()) if JSON.exists() else {"versions": {}, "entries": []}
    if options.check or options.write_only:
        return write_page(stored, options.check)
    stay_on_cpu()
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    known = {key(entry) for entry in stored["entries"]}
    for entry in combinations(options):
        if key(entry) in known:
            continue
        found = measure(entry | {"commit": commit})
        print(key(found), scaling_page.cell(found), flush=True)
        stored["entries"].append(found)
        stored["entries"].sort(key=key)
        stored["versions"] = {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
        writing.write_text(JSON, json.dumps(stored, indent=1) + "\n")
        write_page(stored, check=False)
    return write_page(stored, check=False)


if __name__ == "__main__":
    sys.exit(main())
