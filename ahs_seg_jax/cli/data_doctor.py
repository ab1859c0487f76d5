"""`ahs-seg data doctor`: examines prepared benchmarks, or their downloads, for what silently ruins scores."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ahs_seg_jax.cli import options


def doctor(
    names: options.Benchmarks,
    root: Annotated[str, typer.Option(help="Folder that holds prepared/; else $AHS_SEG_DATA.")] = "",
    output: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of the contact sheets; by default beside the data.")
    ] = None,
) -> None:
    """Examines prepared benchmarks for what silently ruins scores.

    Numbers of images, files that could not be read, labels shifted by one or never mapped, implausible statistics. It
    reads every label of the prepared data again, and draws eight examples to look at. Evaluation refuses what it
    refuses. Exit codes: 0, nothing is wrong; 1, one of them is refused; 2, one could not be examined.
    """
    options.finish(lambda: run(names, root, output))


def run(names: Sequence[str], root: str, output: pathlib.Path | None) -> int:
    """Examines every named benchmark, also if one could not be; returns the exit code."""
    from ahs_seg_jax.data.benchmarks.benchmark import resolve_root
    from ahs_seg_jax.data.benchmarks.registry import benchmark
    from ahs_seg_jax.data.prepared import doctor, layout
    from ahs_seg_jax.storage import paths

    code = 0
    for name in [benchmark(name).name for name in names]:  # another name ends it before the first is examined
        try:
            base = paths.on_disk(resolve_root(root, "--root"), "--root")
            prepared = bool(layout.read_facts(layout.prepared_folder(base, name)))
            report = (
                doctor.record(base, name, output, reread=True) if prepared else doctor.examine_downloads(base, name)
            )
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
            continue
        print(report.text())
        if prepared:
            print(f"  look at {output or layout.prepared_folder(base, name)}/contact_sheet-*.png")
        code = max(code, int(bool(report.problems)))
    return code
