"""`ahs-seg data prepare`: from the public downloads of a benchmark to records that evaluation and training read."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ahs_seg_jax import threads
from ahs_seg_jax.cli import options

if TYPE_CHECKING:
    import pathlib

    from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Listing
    from ahs_seg_jax.data.prepared.preparation import Settings


def prepare(
    names: options.Benchmarks,
    root: Annotated[str, typer.Option(help="Folder of the unpacked downloads; else $AHS_SEG_DATA.")] = "",
    to: Annotated[str, typer.Option(help="Folder that gets prepared/; by default the root.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes; 0: one for each core.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Images of each split, for a trial; 0: all.", min=0)] = 0,
    partial: Annotated[bool, typer.Option("--partial", help="Prepare what is there of incomplete downloads.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Start over, also if a preparation is finished.")] = False,
) -> None:
    """Prepares benchmarks from their public downloads.

    Reads the unpacked downloads below ROOT and writes ROOT/prepared/NAME/VERSION: ArrayRecord files in the layout of
    TensorFlow Datasets, labels mapped to class indices. A stopped run is continued by the same command. Without any
    downloads it says what to download. It ends with exit code 1 if the doctor refuses what was prepared.
    """
    options.finish(lambda: run(names, root, to, jobs or threads.cores(), limit, partial, again))


def run(names: Sequence[str], root: str, to: str, jobs: int, limit: int, partial: bool, again: bool) -> int:
    """Prepares and examines every named benchmark; returns the exit code: 0, 1 or, after Ctrl-C, 130.

    Raises ValueError or OSError for what a user can mend.
    """
    from concurrent.futures.process import BrokenProcessPool

    from ahs_seg_jax.data.benchmarks.benchmark import ROOT_VARIABLE, resolve_root
    from ahs_seg_jax.data.benchmarks.registry import benchmark
    from ahs_seg_jax.data.prepared.preparation import Settings
    from ahs_seg_jax.storage import paths

    known = {name: benchmark(name) for name in names}  # each once
    settings = Settings(jobs, limit, partial, again)
    try:
        source = paths.on_disk(resolve_root(root, "--root"), "--root")
        target = paths.on_disk(to, "--to") if to else source
        found = _find(known, source, settings, _say)
        healthy = [_prepare(known[name], found[name], target, settings, _say) for name in known]
    except BrokenProcessPool as error:
        raise OSError(
            "a process was killed, as a full memory does; the same command with fewer --jobs continues"
        ) from error
    except KeyboardInterrupt:
        print("stopped; the same command continues from the shards that are finished", file=sys.stderr)
        return 130
    if target != source:
        _say(f"evaluate them with --config.data.root={target}, or {ROOT_VARIABLE}={target}")
    return 0 if all(healthy) else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _find(
    known: Mapping[str, "Benchmark"], root: "pathlib.Path", settings: "Settings", log: Callable[[str], None]
) -> dict[str, dict[str, "Listing"]]:
    """The files of every benchmark by its name. Raises DataAbsent with what is wrong with any of them."""
    from ahs_seg_jax.data.prepared import preparation

    found, problems = {}, []
    for name, benchmark in known.items():
        try:
            found[name] = preparation.complete_listings(benchmark, root, settings, log)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise preparation.DataAbsent("\n\n".join(problems))
    return found


def _prepare(
    benchmark: "Benchmark",
    found: dict[str, "Listing"],
    target: "pathlib.Path",
    settings: "Settings",
    log: Callable[[str], None],
) -> bool:
    """Prepares and examines one benchmark; returns whether its doctor finds nothing wrong."""
    from ahs_seg_jax.data.prepared import doctor, preparation

    name = benchmark.name
    facts = preparation.prepare(benchmark, found, target, settings, log)
    report = doctor.record(target, name)
    for split, prepared in facts["splits"].items():
        log(f"{name} {split}: {prepared['images']:,} images, {len(prepared['shard_lengths'])} shards")
        for failure in prepared["failed"]:
            log(f"  left out: {failure['cause']}")
    log(report.text())
    return not report.problems
