"""Compiles the real training and evaluation programs ahead of time for TPU slices, and writes docs/scaling.md.

    python scripts/scaling_table.py --sizes vitb --topologies v5e:2x2 --batches 16
    python scripts/scaling_table.py            # every combination; hours on a small machine

Needs libtpu (`pip install ".[tpu]"`) and no TPU. Each combination's figures go to docs/scaling.json as soon as they are
there, so that a run can be stopped and continued: what the file holds is not compiled again. The page is made from the file
(`--write-only` does nothing else). Combinations that do not divide or do not compile are kept with their cause.
"""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from ahs_seg_jax import config, memory, parallel
from ahs_seg_jax.config import Experiment, MeshConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
JSON, PAGE = ROOT / "docs" / "scaling.json", ROOT / "docs" / "scaling.md"
SIZES = ("vitb", "vitl")
TOPOLOGIES = ("v5e:2x2", "v5e:4x4", "v5e:16x16", "v4:2x2x2", "v5p:2x2x2", "v6e:4x4")
BATCHES = (16, 64, 256, 1024)

TEXT = """# Scaling

What a training step and a batch of evaluation need of each chip of a TPU slice. **Nothing here was measured**: the real
programs were compiled ahead of time on a machine without a TPU, and the figures are the compiler's. `scripts/scaling_table.py`
made this page.

* *peak*: bytes of parameters, optimiser state, batch, results and temporaries on one chip, against the chip's memory.
* *TFLOP*, *moved*: operations and bytes of one chip in one step. The body of a loop counts once, so that programs which
  take the classes in chunks do more than it says.
* *estimate*: the compiler's own guess of the time of one step, where it makes one. It is an estimate.
* *collectives*: operations across chips in the compiled program (again, a loop's body counts once).

## Choosing a mesh
`mesh.data` splits the batch and is the fastest as long as a chip holds one image's activations and all parameters.
`mesh.fsdp` splits parameters, optimiser state and moving average too, at the price of gathering them in each step.
`mesh.classes` splits the aggregator's and decoder's activations, the largest of all, by class: for long vocabularies, and
for fewer images than chips. The result of a step is the same on all of them. One configuration's needs, on any devices:
```
python -m ahs_seg_jax.memory --config=configs/vitb.py --topology=v5e:4x4 --config.train.batch_size=64
```
Other levers: `model.remat` and `model.class_chunk`, `losses.class_chunk` (memory of one pass over some classes),
`train.accumulation` (memory of one micro-batch), `model.dtype=bfloat16`.
"""


def experiment_of(size: str, mode: str, batch: int, mesh: MeshConfig) -> Experiment:
    """The published recipe of a size, with another batch and mesh."""
    sys.path.insert(0, str(ROOT))  # run as a script, it knows the folder of scripts only
    found = dataclasses.replace(importlib.import_module(f"configs.{size}").experiment(), init=config.RANDOM_INIT)
    train = dataclasses.replace(found.train, batch_size=batch)
    evaluation = dataclasses.replace(found.eval, batch_size=batch)
    return dataclasses.replace(found, mode=mode, mesh=mesh, train=train, eval=evaluation)


def measure(size: str, topology: str, mode: str, batch: int, sizes: MeshConfig) -> dict[str, Any]:
    """One combination's entry."""
    entry: dict[str, Any] = {"size": size, "topology": topology, "program": mode, "batch": batch}
    entry |= {"mesh": dataclasses.asdict(sizes)}
    started = time.monotonic()
    try:
        devices = memory.topology_devices(topology)
        experiment = experiment_of(size, mode, batch, sizes)
        mesh = parallel.make_mesh(devices, sizes)
        make = memory.compile_training if mode == "train" else memory.compile_evaluation
        found = memory.figures(make(experiment, memory.training_vocabulary(experiment), mesh))
    except Exception as error:  # a combination that does not fit is a result too
        return entry | {"error": str(error).strip().splitlines()[0][:200]}
    entry |= dataclasses.asdict(found) | {
        "peak": found.peak,
        "chips": len(devices),
        "chip_gib": memory.CHIP_GIB.get(topology.split(":")[0]),
    }
    return entry | {"mesh": dict(mesh.shape), "compile_seconds": round(time.monotonic() - started, 1)}


def key(entry: dict[str, Any]) -> str:
    """What tells one combination from another."""
    mesh = entry["mesh"]
    return f"{entry['size']} {entry['topology']} {entry['program']} {entry['batch']} {mesh['fsdp']} {mesh['classes']}"


def row(entry: dict[str, Any]) -> str:
    """A line of the table."""
    axes = " x ".join(str(entry["mesh"][axis]) for axis in ("data", "fsdp", "classes"))
    start = f"| {entry['size']} | {entry['program']} | {entry['topology']} | {axes} | {entry['batch']} |"
    if "error" in entry:
        return f"{start} {entry['error'].replace('|', ' ')} | | | | |"
    peak, gib = entry["peak"] / memory.GIB, entry["chip_gib"]
    fits = f"{peak:.2f} of {gib}" + ("" if peak <= gib else " **too much**")
    estimate = f"{entry['seconds'] * 1e3:.0f} ms" if entry["seconds"] else ""
    collectives = ", ".join(f"{count} {name}" for name, count in entry["collectives"].items())
    moved = f"{entry['moved'] / memory.GIB:.1f} GiB"
    return f"{start} {fits} | {entry['operations'] / 1e12:.2f} | {moved} | {estimate} | {collectives} |"


def write_page(entries: list[dict[str, Any]]) -> None:
    """The page, from all entries."""
    head = "| size | program | slice | mesh (data x fsdp x classes) | batch | peak GiB a chip | TFLOP | moved | estimate | "
    lines = [TEXT, "## Figures", f"{head}collectives |", "|" + "---|" * 10, *(row(entry) for entry in entries)]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--programs", nargs="+", default=config.MODES)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    entries: list[dict[str, Any]] = json.loads(JSON.read_text()) if JSON.exists() else []
    known = {key(entry) for entry in entries}
    mesh = MeshConfig(fsdp=options.fsdp, classes=options.classes)
    wanted = [
        (size, topology, program, batch, mesh)
        for size in options.sizes
        for topology in options.topologies
        for program in options.programs
        for batch in options.batches
    ]
    for size, topology, program, batch, sizes in [] if options.write_only else wanted:
        fields = {"size": size, "topology": topology, "program": program, "batch": batch}
        if key({**fields, "mesh": dataclasses.asdict(sizes)}) in known:
            continue
        entry = measure(size, topology, program, batch, sizes)
        print(row(entry), flush=True)
        entries.append(entry)
        entries.sort(key=key)
        JSON.write_text(json.dumps(entries, indent=1) + "\n")
        write_page(entries)
    write_page(entries)


if __name__ == "__main__":
    main()
