"""Our training-free methods beside the five published programs, on pictures of many sizes and proportions.

    python -m benchmarks.published.free_parity --programs FOLDER
    python -m benchmarks.published.free_parity --programs FOLDER --tower vitl14 --method naclip pearl

FOLDER holds NACLIP, SCLIP, ClearCLIP, SC-CLIP and PEARL, unpacked, in folders of these names; none of their code is in
this repository. It also needs `pip install -e ".[bench,test]"`. Both sides get the same stand-in weights, embeddings of
words and pictures. Compared are the logits at the picture's size after the refinement, and the labels.
"""

import argparse
import datetime
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.inference import cosine_labels, refining
from ahs_seg_jax.inference.engine import Engine
from ahs_seg_jax.inference.free_views import FreeViews, free_protocols, mosaic_of
from ahs_seg_jax.inference.plan import Request
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.models.training_free import METHODS, TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.versions import versions
from benchmarks import machine, results_file
from benchmarks.published import free_job
from benchmarks.published.free_job import PROGRAMS, TOWERS, FreeCase

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = (  # a photograph, prime sides, one pixel, narrow, wide and tall pictures, and some smaller than a window
    *((480, 640), (229, 301), (37, 53), (7, 11), (1, 1), (3, 97), (101, 13), (64, 1024), (997, 101), (211, 223)),
    *((17, 410), (331, 337)),
)
COUNTS = (2, 3, 5, 13, 23, 61, 127)  # of queries
DIFFERENCE, LABELS = 1e-4, 0.999  # of the largest value; the share of pixels
# sc_clip cuts at thresholds, where rounding makes a value jump: a share of its values may differ more.
JUMPING = {"sc_clip": 1e-3}
# On a small grid PEARL's solver nearly converges, and then rounding alone moves its result so far.
ROUNDING = {"pearl": 1e-3}


def make_cases(tower: str, methods: Sequence[str], pictures: int) -> list[FreeCase]:
    """Up to so many pictures for each method; their sizes, words, thresholds and protocols differ."""
    square = TOWERS[tower].square
    cases: list[FreeCase] = []
    for number, method in enumerate(methods):
        double = 2 if PROGRAMS[method] == "ClearCLIP" else 1
        for index in range(pictures):
            size = SIZES[(number * pictures + index) % len(SIZES)]
            seed = 1 + len(cases)
            queries = COUNTS[seed % len(COUNTS)]
            classes = np.arange(queries)
            if index % 3 == 1:  # synonyms
                classes = np.sort(np.random.default_rng(seed).integers(0, max(2, queries // 2), queries))
                classes = np.unique(classes, return_inverse=True)[1]
            case = FreeCase(
                tower,
                method,
                size,
                seed,
                tuple(classes.tolist()),
                window=0 if index % 4 == 3 else double * square,
                stride=double * square // 2,
                short_side=square * 3 // 2 if double == 1 else double * square,
                scale=METHODS[method].logit_scale,
                probability=(0.0, 0.1, 0.3)[index % 3],
                area=0.1 if method in ("sclip", "sc_clip") and index % 3 == 1 else 0.0,
                gaussian_std=(5.0, 2.0)[index % 2],
                pearl_alpha=(0.08, 0.3)[index % 2],
                pearl_grid=(80, 224, 31)[index % 3],
            )
            if can_run(case):
                cases.append(case)
    return cases


def can_run(case: FreeCase) -> bool:
    """Whether the published program can run the case as its method says.

    Left out are three limits of theirs. Views of less than a patch are no views. SC-CLIP needs 31 patches, and by
    mistake divides by the wrong side of views that are not square. Positions are not interpolated where another grid
    has as many patches as the pretrained one.
    """
    tower = TOWERS[case.tower]
    sides = [min(extent, case.window or extent) for extent in case.resized()]
    padded = PROGRAMS[case.method] == "ClearCLIP" and case.window
    grid = [-(-side // tower.patch) if padded else side // tower.patch for side in sides]
    same_number = grid[0] * grid[1] == tower.grid**2 and grid[0] != grid[1]
    fit_for_sc_clip = grid[0] == grid[1] and grid[0] > 5
    return min(grid) > 0 and not same_number and (case.method != "sc_clip" or fit_for_sc_clip)


def protocol_of(case: FreeCase) -> FreeViews:
    """What our side sees."""
    return next(iter(free_protocols(method_of(case), config_of(case.tower).image).values()))


def method_of(case: FreeCase) -> TrainingFree:
    """Our settings."""
    blocks = free_job.SC_CLIP_BLOCKS[TOWERS[case.tower].layers] if case.method == "sc_clip" else None
    return TrainingFree(
        case.method,
        gaussian_std=case.gaussian_std,
        logit_scale=case.scale,
        short_side=case.short_side,
        window=case.window,
        stride=case.stride,
        pearl_alpha=case.pearl_alpha,
        pearl_grid=case.pearl_grid,
        sc_clip_blocks=blocks,
    )


def config_of(name: str) -> ModelConfig:
    """A CLIP with this image tower; its text tower is not used."""
    tower = TOWERS[name]
    sizes: Any = {"layers": tower.layers, "width": tower.width, "heads": tower.heads, "patch_size": tower.patch}
    return ModelConfig(
        image=ImageTowerConfig(**sizes, crop=24 * tower.patch, pretrained_grid=tower.grid),
        text=TextTowerConfig(layers=1, width=16, heads=1),
        embed_dim=tower.embed_dim,
        adaptation="none",
        mh_fpn=False,
        dc_hsp=False,
        guidance_taps=(0, 1),
    )


def our_parameters(name: str, weights: Mapping[str, np.ndarray]) -> Any:
    """The image tower's."""
    entries = [entry for entry in layouts.entries("openai_clip", config_of(name)) if entry.source in weights]
    rows: dict[str, dict[int | None, np.ndarray]] = defaultdict(dict)
    for entry in entries:
        rows[entry.target][entry.layer] = entry.forward(weights[entry.source])
    flat: dict[str, Any] = {
        target: layers[None] if None in layers else np.stack([layers[index] for index in range(len(layers))])
        for target, layers in rows.items()
    }
    return jax.device_put(parameters.unflatten(flat | {"clip/logit_scale": np.float32(0)}))  # which nothing reads


def ours(case: FreeCase, params: Any) -> dict[str, np.ndarray]:
    """Logits after the refinement, and labels after all thresholds."""
    engine, protocol = Engine(TrainingFreeCLIP(config_of(case.tower), method_of(case)), params), protocol_of(case)
    image, text, classes = case.picture(), case.text()[:, None], np.asarray(case.classes, np.int32)
    more: dict[str, Any] = {"area": case.area, "exempt": [0]} if case.area else {}
    [(label, confidence, _)] = engine.label([image], text, protocol, classes=classes, **more)
    plan = engine.plan(Request(image.shape[:2], len(text), protocol))
    (logits,) = engine._logits([engine.prepared(image, protocol)], text, 1, plan)
    see, mosaic = functools.partial(protocol.resized, image), mosaic_of(protocol, image.shape[:2])
    picture = refining.refined(method_of(case), engine.model.config.image, logits, mosaic, see, text)
    every = np.asarray(cosine_labels.every_map(picture))[: len(text)]
    return {"logits": every, "labels": np.where(confidence < case.probability, 0, label)}


def theirs(folder: pathlib.Path, program: str, scratch: pathlib.Path) -> dict[str, np.ndarray]:
    """The results of the program's cases. Raises RuntimeError with its last lines if it fails."""
    output = scratch / f"{program}.npz"
    module = "benchmarks.published.free_theirs"
    command = [sys.executable, "-m", module, str(folder), program, str(scratch / "cases.json"), str(output)]
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError("\n".join([f"{program}: exit status {done.returncode}", *done.stdout.splitlines()[-15:]]))
    with np.load(output) as file:
        return dict(file)


def compared(case: FreeCase, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a case shows; `passed` says whether it is within the bounds."""
    apart = np.abs(found["logits"] - expected["logits"]) / np.abs(expected["logits"]).max()
    tolerance = ROUNDING.get(case.method, DIFFERENCE)
    over, equal = float((apart > tolerance).mean()), float((found["labels"] == expected["labels"]).mean())
    return {
        "method": case.method,
        "size": list(case.size),
        "queries": len(case.classes),
        "classes": 1 + max(case.classes),
        "protocol": "slide" if case.window else "whole",
        "largest_difference": float(apart.max()),
        "share_over": over,
        "equal_labels": equal,
        "passed": bool(over <= JUMPING.get(case.method, 0.0) and equal >= LABELS),
    }


def run(folder: pathlib.Path, cases: list[FreeCase]) -> list[dict[str, Any]]:
    """Both sides at cases of one tower."""
    tower, shown = cases[0].tower, []
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch)
        weights = free_job.visual_weights(TOWERS[tower])
        np.savez(path / "weights.npz", allow_pickle=False, **weights)
        free_job.write_cases(cases, path / "cases.json")
        for index, case in enumerate(cases):
            np.save(path / f"{index}.npy", protocol_of(case).resized(case.picture()))
        wanted = sorted({PROGRAMS[case.method] for case in cases})
        published = functools.reduce(dict.__or__, (theirs(folder, program, path) for program in wanted))
        params = our_parameters(tower, weights)
        del weights
        for index, case in enumerate(cases):
            expected = {name: published[f"{index}/{name}"] for name in ("logits", "labels")}
            shown.append(compared(case, ours(case, params), expected))
            print(line(tower, shown[-1]), flush=True)
    return shown


def line(tower: str, row: Mapping[str, Any]) -> str:
    """A case in one line."""
    height, width = row["size"]
    return (
        f"{'ok ' if row['passed'] else 'BAD'} {tower} {row['method']:18}{row['protocol']:6}{height:5} x {width:4}, "
        f"{row['queries']:3} queries of {row['classes']:3} classes: logits {row['largest_difference']:.1e}, "
        f"labels {100 * row['equal_labels']:.3f} %"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.published.free_parity", description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--tower", nargs="+", choices=list(TOWERS), default=["thin12", "thin24"])
    parser.add_argument("--method", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--pictures", type=int, default=len(SIZES), help="for each method")
    parser.add_argument("--output", type=pathlib.Path, help="results file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases; exit code 1 if one is not within the bounds, or a program failed."""
    options = parse(argv)
    date = datetime.datetime.now(datetime.UTC)
    output = options.output or ROOT / "benchmarks" / "results" / f"free_parity_{date.date().isoformat()}.json"
    failed = 0
    for tower in options.tower:
        settings = {"tower": tower, "methods": options.method, "pictures": options.pictures, "dtype": "float32"}
        try:
            cases = run(options.programs.resolve(), make_cases(tower, options.method, options.pictures))
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        failed += sum(not case["passed"] for case in cases)
        record = {
            "key": results_file.key("free_parity", settings),
            "name": "free_parity",
            "settings": settings,
            "cases": cases,
            "hardware": machine.describe(),
            "versions": versions(),
            "date": date.isoformat(timespec="seconds"),
        }
        results_file.add(output, record)
    print(f"{failed} not within the bounds; {os.path.relpath(output)}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
