"""Compiles the real training and evaluation programs ahead of time for TPU slices, and writes docs/scaling.md.

    python scripts/scaling_table.py --sizes vitb --topologies v5e:2x2 --batches 16
    python scripts/scaling_table.py            # every combination; hours on a small machine

Needs libtpu (`pip install ".[tpu,bench]"`) and no TPU. Each combination's figures go to docs/scaling.json as soon as they
are there, so that a run can be stopped and continued: what the file holds is not compiled again. The page is made from the
file (`--write-only` does nothing else). Combinations that do not fit or do not divide are kept with their cause.
"""

import argparse
import collections
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, it knows the folder of scripts only

import jax

from ahs_seg_jax import errors
from ahs_seg_jax.ahead_of_time import memory, tpu_compiler
from ahs_seg_jax.ahead_of_time.programs import program, topology_devices
from ahs_seg_jax.config import RANDOM_INIT, Experiment, MeshConfig, experiment
from ahs_seg_jax.devices.mesh import batch_shards, make_mesh
from benchmarks import cost, results_file, traffic
from benchmarks.markdown import table
from benchmarks.tpu_chips import chip_of

JSON, PAGE = ROOT / "docs" / "scaling.json", ROOT / "docs" / "scaling.md"
ONE_CHIP = ROOT / "benchmarks" / "results" / "tpu_vitb.json"
SIZES = ("vitb", "vitl")
TOPOLOGIES = ("v5e:1x1", "v6e:1x1", "v5e:2x2", "v5e:4x4", "v5e:16x16", "v4:2x2x2", "v5p:2x2x2", "v6e:4x4")
BATCHES = (16, 64, 256, 1024)
EARLIER = "an earlier commit"  # entries from before they named theirs

TEXT = """# Scaling

What a training step and a batch of evaluation need of each chip of a TPU slice. **Nothing here was measured on a TPU**: the
real programs went through the TPU compiler on a machine without one (libtpu {libtpu}, jax {jax}), up to the point where
every array has its place in memory. The machine code, which comes last and takes many times as long, was not made.
`scripts/scaling_table.py` made this page, from the code of {commits}.

* *peak*: bytes of parameters, optimiser state, batch, results and temporaries on one chip, of the chip's memory, without the
  machine code. The compiler keeps 0.25 GiB of a v5e's 16 for itself. A v4's two cores count as a device each, with half of
  the chip.
* *TFLOP*: products and convolutions that one chip does in a step, counted in the traced program. What does not depend on the
  images (the words' embeddings, the rotations) every chip does for itself.
* *moved*: what the compiled program's operations read from the chip's main memory and write there, loops counted as often as
  they run.
* *estimate*: TFLOP and moved, each divided by what the data sheet says the chip can do, without any time for what crosses
  chips. It is an estimate, and no measurement.
  {own}
* *across chips*: such operations in the compiled program (a loop's body counts once). *as SLICE with BATCH*: the same program
  for each chip, whose batch is the same, was compiled for that slice and not again.

Batches are of the whole slice.

## Choosing a mesh
`mesh.data` splits the batch and is the fastest as long as a chip holds one image's activations and all parameters.
`mesh.fsdp` splits parameters, optimiser state and moving average too, at the price of gathering them in each step.
`mesh.classes` splits the aggregator's and decoder's activations, the largest of all, by class: for long vocabularies, and
for fewer images than chips. The result of a step is the same on all of them. One configuration's needs, on any devices:
```
ahs-seg memory --config=configs/vitb.py --topology=v5e:4x4 --config.train.batch_size=64
```
Other levers: `model.remat` (`cheap` keeps what products and convolutions gave, `all` nothing), `train.accumulation` (memory of
one micro-batch), `model.dtype=bfloat16`. The recipes of both sizes use the first and the last. On TPUs a pass over classes
takes 16 images x classes a chip, whatever `model.class_chunk` and `losses.class_chunk` say: elsewhere they bound its memory.
More than 16 images a chip at once do not fit its fast memory, and move more than as many in micro-batches of 16.
"""
FSDP = """Training steps that differ in the mesh alone. *arguments*: parameters, optimiser state and the batch, which a chip holds from
step to step. Both axes split the batch. Gathering parameters takes memory and traffic of its own: where all parameters fit on
a chip, `mesh.data` needs the fewest operations across chips.
"""


def experiment_of(size: str, mode: str, batch: int, mesh: MeshConfig, accumulation: int = 1) -> Experiment:
    """The published recipe of a size, with another batch and mesh."""
    found = dataclasses.replace(importlib.import_module(f"configs.{size}").experiment(), init=RANDOM_INIT)
    train = dataclasses.replace(found.train, batch_size=batch, accumulation=accumulation)
    evaluation = dataclasses.replace(found.eval, batch_size=batch)
    return dataclasses.replace(found, mode=mode, mesh=mesh, train=train, eval=evaluation)


@functools.cache
def work_of_images(size: str, mode: str) -> tuple[float, float]:
    """Floating-point operations of a step: those that do not depend on the images, and those of each image."""

    def work(batch: int) -> float:
        mesh = make_mesh(jax.devices()[:1])
        run, arguments = program(experiment_of(size, mode, batch, MeshConfig()), mode, mesh)
        return cost.work(run, *arguments).flops

    one, two = work(1), work(2)
    return 2 * one - two, two - one


def measure(entry: dict[str, Any]) -> dict[str, Any]:
    """A combination with its figures."""
    size, topology, mode, batch = (entry[name] for name in ("size", "topology", "program", "batch"))
    sizes, accumulation = MeshConfig(**entry["mesh"]), entry.get("accumulation", 1)
    started = time.monotonic()
    try:
        devices = topology_devices(topology)
        mesh = make_mesh(devices, sizes)
        planned = tpu_compiler.planned(experiment_of(size, mode, batch, sizes, accumulation), mode, topology)
    except (errors.InputError, ValueError) as error:  # a combination that does not fit is a result too
        return entry | {"error": str(error).strip().splitlines()[0][:300]}
    found, (fixed, each) = memory.figures_ahead_of_time(planned), work_of_images(size, mode)
    entry = entry | {"mesh": dict(mesh.shape), "chips": len(devices), "peak": found.peak, "arguments": found.arguments}
    entry |= {
        "operations": fixed * accumulation + each * -(-batch // batch_shards(mesh)) / mesh.shape["classes"],
        "moved": traffic.bytes_moved(planned.program),
        "collectives": found.collectives,
    }
    return entry | {"compile_seconds": round(time.monotonic() - started, 1)}


def key(entry: dict[str, Any]) -> str:
    """What tells one combination from another."""
    mesh = entry["mesh"]
    return (
        f"{entry['size']} {entry['topology']} {entry['program']} {entry['batch']} {mesh['fsdp']} {mesh['classes']}"
        + (f" {entry['accumulation']}" if entry.get("accumulation", 1) > 1 else "")
    )


def refused(error: str) -> str:
    """Why a combination has no figures, in a few words."""
    if found := re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", error):
        return f"does not fit: temporaries alone need {found[1]} of {found[2]} GiB"
    if found := re.search(r"Used ([\d.]+)G of ([\d.]+)G", error):
        return f"does not fit: needs {found[1]} of {found[2]} GiB"
    return error.replace("|", " ")[:80]


def row(entry: dict[str, Any]) -> str:
    """A line of the table."""
    mesh, kind = entry["mesh"], entry["topology"].split(":")[0]
    axes = " x ".join("all" if mesh[axis] < 0 else str(mesh[axis]) for axis in ("data", "fsdp", "classes"))
    parts = f" in {entry['accumulation']} micro-batches" if entry.get("accumulation", 1) > 1 else ""
    start = f"| {entry['topology']} | {axes} | {entry['batch']}{parts} |"
    notes = [across(entry)] if entry.get("collectives") else []
    notes += [f"as {entry['as']}"] if "as" in entry else []
    notes += [] if "commit" in entry else [EARLIER]
    last = f" {'; '.join(notes)} |" if notes else " |"
    if "error" in entry:
        return f"{start} {refused(entry['error'])} | | | |{last}"
    peak, gib = entry["peak"] / memory.GIB, memory.DEVICE_GIB[kind]
    fits = f"{peak:.2f} of {gib}" + ("" if peak <= gib else " **too much**")
    chip = chip_of(kind)
    least, most = sorted((chip.compute_seconds(entry["operations"]), chip.memory_seconds(entry["moved"])))
    return (
        f"{start} {fits} | {entry['operations'] / 1e12:.2f} | {entry['moved'] / 1e9:.0f} GB | "
        f"{1e3 * least:.0f} to {1e3 * most:.0f} ms |{last}"
    )


def across(entry: dict[str, Any]) -> str:
    """The operations across chips, by kind."""
    return ", ".join(f"{count} {name}" for name, count in entry["collectives"].items())


def split_by_batch_alone(entry: dict[str, Any]) -> bool:
    """Whether every chip holds all parameters and all classes."""
    return entry["mesh"]["fsdp"] == entry["mesh"]["classes"] == 1


def twin(wanted: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """`wanted` with the figures of an entry whose chips run the same program; None if there is no such entry.

    That is one of the same kind of chip with as many images a chip, where the batch alone is split. A training step on one
    chip has nothing to add up across chips and is a program of its own.
    """
    chips = {entry["topology"]: entry["chips"] for entry in entries if "chips" in entry}

    def images(entry: dict[str, Any]) -> int:
        return -(-int(entry["batch"]) // chips[entry["topology"]])

    def alike(entry: dict[str, Any]) -> bool:
        kinds = [each["topology"].split(":")[0] for each in (entry, wanted)]
        alone = [chips[each["topology"]] == 1 for each in (entry, wanted)]
        return kinds[0] == kinds[1] and images(entry) == images(wanted) and (alone[0] == alone[1] or not training)

    training = wanted["program"] == "train"
    for entry in entries if wanted["topology"] in chips else ():
        same = all(entry[name] == wanted[name] for name in ("size", "program")) and split_by_batch_alone(entry)
        if same and entry["topology"] in chips and alike(entry):
            mesh = wanted["mesh"] | {"data": chips[wanted["topology"]]}
            source = f"{entry['topology']} with {entry['batch']}"
            return entry | {"topology": wanted["topology"], "batch": wanted["batch"], "mesh": mesh, "as": source}
    return None


def fsdp_table(entries: list[dict[str, Any]]) -> list[str]:
    """What splitting parameters and optimiser state gives and costs: the same training step on different meshes."""
    header = ("size", "slice", "data x fsdp", "batch", "arguments", "peak", "moved", "across chips")
    training = [entry for entry in entries if entry["program"] == "train" and "peak" in entry]
    split = {(e["size"], e["topology"], e["batch"]) for e in training if e["mesh"]["fsdp"] > 1}
    training.sort(key=lambda entry: (entry["size"], entry["batch"], entry["mesh"]["fsdp"]))
    rows = [
        [
            *(
                entry["size"],
                entry["topology"],
                f"{entry['mesh']['data']} x {entry['mesh']['fsdp']}",
                str(entry["batch"]),
            ),
            *(f"{entry[name] / memory.GIB:.2f} GiB" for name in ("arguments", "peak")),
            *(f"{entry['moved'] / 1e9:.0f} GB", across(entry)),
        ]
        for entry in training
        if (entry["size"], entry["topology"], entry["batch"]) in split and entry.get("accumulation", 1) == 1
    ]
    return ["## What mesh.fsdp gives and costs", FSDP, table(header, rows), ""] if rows else []


def own_estimate(records: list[dict[str, Any]]) -> str:
    """A sentence: XLA's own estimates of finished programs beside their rooflines."""
    ratios: dict[str, list[float]] = {}
    for record in records:
        if record.get("estimated_seconds"):
            ratio = record["estimated_seconds"] / record["roofline"]["seconds"]
            ratios.setdefault(record["work"].split(",")[0], []).append(ratio)
    said = " and ".join(f"{min(found):.1f} to {max(found):.1f} times (a {work})" for work, found in ratios.items())
    said = said.replace("(a inference)", "(inference)")
    longer = "the longer of the two, see [One TPU chip](performance.md#one-tpu-chip)"
    return f"XLA's own estimate for one chip is {said}\n  {longer}." if said else ""


def commits_of(entries: list[dict[str, Any]]) -> str:
    """Which commits' programs the entries are of, the most frequent first."""
    counts = collections.Counter(entry.get("commit", EARLIER) for entry in entries)
    named = [f"{commit} ({count} of {len(entries)})" for commit, count in counts.most_common()]
    return next(iter(counts), "no commit") if len(counts) < 2 else ", ".join(named)


def write_page(entries: list[dict[str, Any]]) -> None:
    """The page, from all entries; what was not compiled yet is said."""
    known = {key(entry): entry for entry in entries}
    for wanted in combinations(SIZES, TOPOLOGIES, experiment.MODES, BATCHES, MeshConfig()):
        done_otherwise = any(
            "peak" in e and all(e[n] == wanted[n] for n in ("size", "topology", "program", "batch")) for e in entries
        )
        if not done_otherwise:
            known.setdefault(key(wanted), twin(wanted, entries) or wanted)
    versions = json.loads(JSON.read_text())["versions"] if JSON.exists() else {}
    own, commits = own_estimate(results_file.read(ONE_CHIP)), commits_of(entries)
    text = TEXT.format(libtpu=versions.get("libtpu"), jax=versions.get("jax"), own=own, commits=commits)
    lines = [text, *fsdp_table(entries)]
    for size in SIZES:
        for name, title in (("train", "training step"), ("eval", "evaluation, protocol cat_seg")):
            lines += [
                f"## {size}: {title}",
                "| slice | data x fsdp x classes | batch | peak GiB a chip | TFLOP | moved |",
            ]
            lines[-1] += " estimate | across chips |\n" + "|" + "---|" * 8
            here = [entry for entry in known.values() if (entry["size"], entry["program"]) == (size, program)]
            here.sort(key=lambda entry: (TOPOLOGIES.index(entry["topology"]), entry["batch"], entry["mesh"]["fsdp"]))
            tried = [entry for entry in here if "peak" in entry or "error" in entry]
            lines = [*lines, *(row(entry) for entry in tried)] if tried else lines[:-1]
            done = {
                (entry["topology"], entry["batch"]) for entry in tried
            }  # on some mesh, in some number of micro-batches
            if missing := [entry for entry in here if (entry["topology"], entry["batch"]) not in done]:
                by_slice = {
                    name: [str(entry["batch"]) for entry in missing if entry["topology"] == name] for name in TOPOLOGIES
                }
                named = "; ".join(f"{name} {', '.join(batches)}" for name, batches in by_slice.items() if batches)
                lines.append(f"\nNot compiled (slice, batches): {named}.")
            lines.append("")
    PAGE.write_text("\n".join(lines))


def combinations(
    sizes: Any, topologies: Any, programs: Any, batches: Any, mesh: MeshConfig, accumulation: int = 1
) -> list[dict[str, Any]]:
    """Entries without figures."""
    fixed = {"mesh": dataclasses.asdict(mesh)} | ({"accumulation": accumulation} if accumulation > 1 else {})
    return [
        {"size": size, "topology": topology, "program": program, "batch": batch, **fixed}
        for size in sizes
        for topology in topologies
        for program in programs
        for batch in batches
    ]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--programs", nargs="+", default=experiment.MODES)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    entries: list[dict[str, Any]] = json.loads(JSON.read_text())["entries"] if JSON.exists() else []
    known = {key(entry) for entry in entries}
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    mesh = MeshConfig(fsdp=options.fsdp, classes=options.classes)
    wanted = combinations(
        options.sizes, options.topologies, options.programs, options.batches, mesh, options.accumulation
    )
    for entry in [] if options.write_only else wanted:
        if key(entry) in known:
            continue
        found = measure(entry | {"commit": commit})
        print(found["size"], found["program"], row(found), flush=True)
        entries.append(found)
        entries.sort(key=key)
        versions = {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
        JSON.write_text(json.dumps({"versions": versions, "entries": entries}, indent=1) + "\n")
        write_page(entries)
    write_page(entries)


if __name__ == "__main__":
    main()
