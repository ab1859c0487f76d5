"""Loss curves of the published PyTorch program and of ours, for each recipe that the published program can run.

    python -m benchmarks.published.curve --program CAT_SEG_FOLDER AHS_SEG_FOLDER

The folders hold the published programs, unpacked; none of their code is in this repository. Both programs train a small
model (`curve_job`) on the same batches, with the optimiser and the schedule of the recipe: `same` from the same
starting weights, `fresh` each from fresh values of its own, several times. It also needs
`pip install -e ".[bench,convert]"`, einops and tqdm. Fails if the curves are further apart than the bounds below.
"""

import argparse
import dataclasses
import datetime
import itertools
import math
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import results_file
from benchmarks.published import curve_page, side_by_side
from benchmarks.published.curve_job import RECIPES, SIZES, CurveJob, clip_weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {"published": "benchmarks.published.curve_theirs", "ours": "benchmarks.published.curve_ours"}
PARTS = ("same", "fresh")
CLIP = "clip.npz"
NAMES = ("person", "bicycle", "car", "motorcycle", "airplane", "bus")  # the first of COCO-Stuff's
# Losses of the two programs from the same weights, as a share of the published one: in the first updates, and in all.
FIRST, WITHIN_FIRST, WITHIN_LAST = 50, 1e-3, 2e-2
# How far rounding alone leads is seen from our program beside itself, its weights moved by this share.
ROUNDING = 1e-7
MARKS = (1, 10, 50, 200)  # updates at which the means from fresh values are compared
STANDARD_ERRORS = 2.0  # that these may be apart


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.published.curve", description=__doc__.splitlines()[0])
    parser.add_argument("--program", nargs="+", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--updates", type=int, default=max(MARKS))
    parser.add_argument("--seeds", type=int, default=5, help="trainings from fresh values of each program")
    parser.add_argument("--batch", type=int, default=2, help="images of an update")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=pathlib.Path, help="results file")
    parser.add_argument("--image", type=pathlib.Path, default=ROOT / "docs" / "images" / "curves.png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what was asked for, writes the results file and the plot; returns 0 if all is within the bounds."""
    options = parse(argv)
    date = datetime.date.today().isoformat()
    output = options.output or ROOT / "benchmarks" / "results" / f"curves_cpu_{date}.json"
    outside = False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.savez(folder / CLIP, allow_pickle=False, **clip_weights())
        try:
            programs = {recipe: folder_for(recipe, options.program) for recipe in options.recipes}
            for recipe, part in itertools.product(programs, options.parts):
                record = compare(_job(options, recipe, programs[recipe], part, folder), part, folder)
                results_file.add(output, record)
                print(summary(record), flush=True)
                outside |= not record["within"]
        except (RuntimeError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    curve_page.plot(results_file.read(output), options.image)
    print(output)
    return int(outside)


def _job(options: argparse.Namespace, recipe: str, program: pathlib.Path, part: str, folder: pathlib.Path) -> CurveJob:
    return CurveJob(
        recipe=recipe,
        folder=str(program),
        clip=str(folder / CLIP),
        seeds=(0,) if part == "same" else tuple(range(options.seeds)),
        names=NAMES,
        start=str(folder / f"{recipe}.pth") if part == "same" else "",
        updates=options.updates,
        batch=options.batch,
        threads=options.threads,
    )


def folder_for(recipe: str, folders: Sequence[pathlib.Path]) -> pathlib.Path:
    """The first folder whose program can run the recipe. Raises FileNotFoundError if none can."""
    needed = (RECIPES[recipe].needs, RECIPES[recipe].config)
    for folder in folders:
        if all((folder / name).is_file() for name in needed):
            return folder.resolve()
    raise FileNotFoundError(
        f"recipe {recipe} needs a published program with {' and '.join(needed)}; there is none in "
        f"{', '.join(map(str, folders))}. Pass --program with its folder, or --recipes without {recipe}"
    )


def compare(job: CurveJob, part: str, folder: pathlib.Path) -> dict[str, Any]:
    """The record of one recipe: the curves of both programs, how far they are apart, whether that is within the bounds.

    Raises RuntimeError if a program fails.
    """

    def run(program: str, job: CurveJob) -> dict[str, Any]:
        title = f"{program}, {job.recipe}"
        return side_by_side.reply_of(PROGRAMS[program], job, folder, title, dict(os.environ))

    replies = {program: run(program, job) for program in PROGRAMS}
    published, ours = (replies[program]["curves"] for program in PROGRAMS)
    left_out = ("folder", "clip", "start", "threads", "moved")
    settings = {name: value for name, value in dataclasses.asdict(job).items() if name not in left_out}
    settings |= {"program": pathlib.Path(job.folder).name, "sizes": dataclasses.asdict(SIZES)}
    if part == "same":
        (moved,) = run("ours", dataclasses.replace(job, moved=ROUNDING))["curves"]
        found = same(published[0], ours[0], moved) | {"moved": _rounded(moved["loss"])}
    else:
        found = fresh(published, ours)
    return {
        "key": results_file.key(f"curve_{part}_{job.recipe}", settings),
        "name": f"curve_{part}_{job.recipe}",
        "settings": settings,
        **found,
        "published": [_rounded(curve["loss"]) for curve in published],
        "ours": [_rounded(curve["loss"]) for curve in ours],
        "hardware": replies["ours"]["hardware"],
        "versions": replies["ours"]["versions"] | replies["published"]["versions"],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    """To the digits that float32 has."""
    return [float(f"{value:.7g}") for value in values]


def same(published: dict[str, Any], ours: dict[str, Any], moved: dict[str, Any]) -> dict[str, Any]:
    """How far losses are apart at most, relatively: in the first updates and in all; and gradient norms in the first.

    `moved` is our program from weights that a rounding has moved: its distance from `ours` is reported beside, and no
    bound depends on it.
    """
    apart = {name: relative(published[name], ours[name]) for name in ("loss", "gradient_norm")}
    first, every = max(apart["loss"][:FIRST]), max(apart["loss"])
    unavoidable = relative(ours["loss"], moved["loss"])
    return {
        "largest_first": first,
        "largest": every,
        "at_last": apart["loss"][-1],
        "largest_gradient_norm_first": max(apart["gradient_norm"][:FIRST]),
        "largest_of_rounding_first": max(unavoidable[:FIRST]),
        "largest_of_rounding": max(unavoidable),
        "within": first <= WITHIN_FIRST and apart["loss"][-1] <= WITHIN_LAST,
    }


def relative(expected: Sequence[float], found: Sequence[float]) -> list[float]:
    """The distance of each pair, as a share of the expected value."""
    return [abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True)]


def fresh(published: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of both programs' losses at the marks, and their distance."""
    marks: dict[str, dict[str, Any]] = {}
    for mark in (mark for mark in MARKS if mark <= len(published[0]["loss"])):
        sides = [[curve["loss"][mark - 1] for curve in side] for side in (published, ours)]
        means, spreads = [statistics.fmean(side) for side in sides], [statistics.stdev(side) for side in sides]
        error = math.sqrt(sum(spread**2 / len(side) for spread, side in zip(spreads, sides, strict=True)))
        marks[str(mark)] = {
            "published": [means[0], spreads[0]],
            "ours": [means[1], spreads[1]],
            "standard_errors": abs(means[1] - means[0]) / error,
        }
    return {"marks": marks, "within": all(mark["standard_errors"] <= STANDARD_ERRORS for mark in marks.values())}


def summary(record: dict[str, Any]) -> str:
    """What a record says, in one line."""
    verdict = "within the bounds" if record["within"] else "OUTSIDE THE BOUNDS"
    if "marks" in record:
        parts = [
            f"update {mark}: {found['standard_errors']:.2f} standard errors" for mark, found in record["marks"].items()
        ]
        return f"{record['name']}: {', '.join(parts)}: {verdict}"
    return (
        f"{record['name']}: losses apart by {record['largest_first']:.1e} in the first {FIRST} updates, "
        f"{record['largest']:.1e} in all {record['settings']['updates']}, {record['at_last']:.1e} at the last; the "
        f"same program from weights moved by a rounding {record['largest_of_rounding_first']:.1e} and "
        f"{record['largest_of_rounding']:.1e}: {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
