"""The tables of docs/scaling.md: what each slice needs, from the entries that `benchmarks.tpu.scaling` compiled.

Every entry has the `size`, `topology`, `program`, `batch`, `mesh` and, above 1, the `accumulation` of a combination. If
it was compiled, it also has `chips` and the figures of one chip: `peak` and `arguments` in bytes, floating-point
`operations`, bytes `moved`, `collectives`. If the compiler refused it, it has an `error`.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ahs_seg_jax.ahead_of_time.memory import GIB
from benchmarks.results_file import table
from benchmarks.tpu.chips import chip_of
from benchmarks.tpu.report import milliseconds

SIZES = ("vitb", "vitl")
TOPOLOGIES = ("v5e:1x1", "v6e:1x1", "v5e:2x2", "v5e:4x4", "v5e:16x16", "v4:2x2x2", "v5p:2x2x2", "v6e:4x4")
BATCHES = (16, 64, 256, 1024)
EARLIER = "an earlier commit"  # entries from before they named theirs
MESHES = ("v5e:4x4", 64)  # the slice and the batch whose meshes are compared
OTHER_SIZES = (  # configurations with other towers than CLIP's, compiled for one slice
    *("siglip2_vitb", "siglip2_vitl", "siglip2_so400m", "pe_vitb", "pe_vitl", "metaclip2_vitb", "metaclip2_vitl"),
    *("eva02_vitb", "eva02_vitl"),
)
OTHERS = ("v5e:4x4", (16, 64), 64)  # that slice, the batches of its training steps, and of its evaluation
SAME_FOR_ALL = {"data": -1, "fsdp": 1, "classes": 1}

Entry = dict[str, Any]


def blocks(
    entries: Sequence[Entry], versions: Mapping[str, str], one_chip: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """The Markdown of every marker of the page. `one_chip` are the records of `benchmarks.tpu.estimate`."""
    compiled_with = f"libtpu {versions.get('libtpu')} and jax {versions.get('jax')}"
    programs = f"Compiled with {compiled_with}, from the code of {commits_of(entries)}."
    tables = {size: slices_table(size, entries) for size in SIZES}
    tables |= {"other towers": others_table(entries), "fsdp": fsdp_table(entries)}
    return {"programs": programs, "own estimate": own_estimate(one_chip), **tables}


def others_table(entries: Sequence[Entry]) -> str:
    """One line for each size with other towers than CLIP's, on one slice."""
    topology, batches, evaluated = OTHERS
    header = ("configuration", *(f"training, batch {batch}" for batch in batches), f"evaluation, batch {evaluated}")
    rows = []
    for size in OTHER_SIZES:
        training = [cell(known(size, topology, "train", batch, entries)) for batch in batches]
        rows.append([size, *training, cell(known(size, topology, "eval", evaluated, entries))])
    return table(header, rows)


def slices_table(size: str, entries: Sequence[Entry]) -> str:
    """One line for each slice: what a training step of each batch needs, and the largest batch of an evaluation."""
    header = ("slice", "devices", "memory of each", *(f"training, batch {batch}" for batch in BATCHES), "evaluation")
    devices = {entry["topology"]: entry["chips"] for entry in entries if "chips" in entry}
    rows = []
    for topology in TOPOLOGIES:
        training = [cell(known(size, topology, "train", batch, entries)) for batch in BATCHES]
        evaluations = [known(size, topology, "eval", batch, entries) for batch in reversed(BATCHES)]
        largest = next((found for found in evaluations if found and fits(found)), None)
        named = f"batch {largest['batch']}: {cell(largest)}" if largest else cell(evaluations[-1])
        capacity = f"{chip_of(topology).memory_gib:g} GiB"
        rows.append([topology, str(devices.get(topology, "")), capacity, *training, named])
    return table(header, rows)


def known(size: str, topology: str, program: str, batch: int, entries: Sequence[Entry]) -> Entry | None:
    """The entry of a combination that the page shows; None if neither it nor one with the same program was compiled.

    An entry that fits is preferred to one that does not; then one whose mesh splits the batch alone; then one with few
    micro-batches.
    """
    wanted = {"size": size, "topology": topology, "program": program, "batch": batch}
    found = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    found = found or [entry for entry in [twin(wanted | {"mesh": SAME_FOR_ALL}, entries)] if entry]
    order = lambda entry: (not fits(entry), not split_by_batch_alone(entry), entry.get("accumulation", 1))
    return min(found, key=order, default=None)


def fits(entry: Entry) -> bool:
    """Whether the program was compiled and its arrays fit into the memory of a chip."""
    return "peak" in entry and bool(entry["peak"] <= chip_of(entry["topology"]).memory_gib * GIB)


def cell(entry: Entry | None) -> str:
    """Peak memory of a chip and the least time, with what the mesh and the micro-batches must be for that."""
    if entry is None:
        return "not compiled"
    if "error" in entry:
        return refused(entry["error"])
    parts = [f"{entry['peak'] / GIB:.1f} GiB", least_time(entry)]
    if not fits(entry):
        return f"does not fit: needs {parts[0]}"
    if (accumulation := entry.get("accumulation", 1)) > 1:
        parts.append(f"{accumulation} micro-batches")
    parts += [f"mesh.{axis}={entry['mesh'][axis]}" for axis in ("fsdp", "classes") if entry["mesh"][axis] > 1]
    return ", ".join(parts)


def least_time(entry: Entry) -> str:
    """The time of an entry that a chip cannot be faster than by its data sheet, without what crosses chips."""
    chip = chip_of(entry["topology"])
    return milliseconds(max(chip.compute_seconds(entry["operations"]), chip.memory_seconds(entry["moved"])))


def refused(error: str) -> str:
    """Why a combination has no figures, in a few words."""
    if found := re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", error):
        return f"does not fit: temporaries alone need {found[1]} of {found[2]} GiB"
    if found := re.search(r"Used ([\d.]+)G of ([\d.]+)G", error):
        return f"does not fit: needs {found[1]} of {found[2]} GiB"
    return error.replace("|", " ")[:80]


def across(entry: Entry) -> str:
    """The operations across chips, by kind."""
    return ", ".join(f"{count} {name}" for name, count in entry["collectives"].items())


def split_by_batch_alone(entry: Entry) -> bool:
    """Whether every chip holds all parameters and all classes."""
    return bool(entry["mesh"]["fsdp"] == entry["mesh"]["classes"] == 1)


def twin(wanted: Entry, entries: Sequence[Entry]) -> Entry | None:
    """`wanted` with the figures of an entry whose chips run the same program; None if there is no such entry.

    Chips run the same program if they are of the same kind, have as many images each, and the batch alone is split. A
    training step on one chip has nothing to add up across chips and is a program of its own.
    """
    chips = {entry["topology"]: entry["chips"] for entry in entries if "chips" in entry}

    def images(entry: Entry) -> int:
        return -(-int(entry["batch"]) // chips[entry["topology"]])

    def alike(entry: Entry) -> bool:
        kinds = [each["topology"].split(":")[0] for each in (entry, wanted)]
        alone = [chips[each["topology"]] == 1 for each in (entry, wanted)]
        return kinds[0] == kinds[1] and images(entry) == images(wanted) and (alone[0] == alone[1] or not training)

    training = wanted["program"] == "train"
    for entry in entries if wanted["topology"] in chips else ():
        same = all(entry[name] == wanted[name] for name in ("size", "program")) and split_by_batch_alone(entry)
        if same and entry["topology"] in chips and alike(entry):
            mesh = wanted["mesh"] | {"data": chips[wanted["topology"]]}
            return entry | {"topology": wanted["topology"], "batch": wanted["batch"], "mesh": mesh}
    return None


def fsdp_table(entries: Sequence[Entry]) -> str:
    """What splitting parameters and optimiser state gives and costs: the same training step on different meshes."""
    header = ("size", "data x fsdp", "arguments", "peak", "moved", "across chips")
    topology, batch = MESHES
    rows = []
    for size in SIZES:
        wanted = {"size": size, "topology": topology, "program": "train", "batch": batch}
        found = [e for e in entries if "peak" in e and all(e[name] == value for name, value in wanted.items())]
        found = [e for e in found if e["mesh"]["classes"] == 1 and e.get("accumulation", 1) == 1]
        for entry in sorted(found, key=lambda entry: entry["mesh"]["fsdp"]):
            mesh = f"{entry['mesh']['data']} x {entry['mesh']['fsdp']}"
            memory = [f"{entry[name] / GIB:.2f} GiB" for name in ("arguments", "peak")]
            rows.append([size, mesh, *memory, f"{entry['moved'] / 1e9:.0f} GB", across(entry)])
    return table(header, rows) if rows else "Not compiled."


def own_estimate(records: Iterable[Mapping[str, Any]]) -> str:
    """A sentence: XLA's own estimates of finished programs beside their rooflines."""
    ratios: dict[str, list[float]] = {}
    for record in records:
        if record.get("estimated_seconds"):
            ratio = record["estimated_seconds"] / record["roofline"]["seconds"]
            kind = "for a training step" if record["work"] == "training step" else "for inference"
            ratios.setdefault(kind, []).append(ratio)
    said = " and ".join(f"{min(found):.1f} to {max(found):.1f} times that {kind}" for kind, found in ratios.items())
    source = "[One TPU chip](performance.md#one-tpu-chip)"
    return f"XLA's own estimate for one chip is {said}: see {source}." if said else "XLA's own estimate was not made."


def commits_of(entries: Sequence[Entry]) -> str:
    """Which commits' programs the entries are of, the most frequent first."""
    counts = collections.Counter(entry.get("commit", EARLIER) for entry in entries)
    named = [f"{commit} ({count} of {len(entries)})" for commit, count in counts.most_common()]
    return next(iter(counts), "no commit") if len(counts) < 2 else ", ".join(named)
