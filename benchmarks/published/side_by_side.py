"""The published PyTorch program and ours at the same work, on the same weights, one after the other in turns.

    python -m benchmarks.published.side_by_side --program FOLDER --work training whole sliding

FOLDER holds the published AHS-Seg or CAT-Seg, unpacked; none of its code is in this repository. It also needs
`pip install -e ".[bench,convert]"`. Before anything is timed the two programs must agree on the probabilities of every
class, or on loss and gradient. Each turn is a process of its own, so that it has all memory and its peak is its own.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.devices import huge_pages
from benchmarks import results_file
from benchmarks.published.job import WORKS, Job
from benchmarks.settings import CLASSES_PER_PASS_ON_CPU

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {"published": "benchmarks.published.theirs", "ours": "benchmarks.published.ours"}
VOCABULARIES = {"training": "coco_stuff", "whole": "ade20k_150", "sliding": "ade20k_150"}
ROUNDS = 3
LARGEST_DIFFERENCE = 1e-2  # between probabilities, and between losses and gradients relative to their size
FEWEST_EQUAL_LABELS = 0.99
LINES_OF_ERROR = 15


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.published.side_by_side", description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--weights", type=pathlib.Path, help="a published checkpoint; by default random weights")
    parser.add_argument("--classes", type=int, default=0, help="the first of the vocabulary's; 0 = all 171 or 150")
    parser.add_argument("--batch", type=int, default=1, help="images of a training step")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each program")
    parser.add_argument("--repetitions", type=int, default=2, help="timed calls of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the published program")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our program")
    parser.add_argument(
        "--class-chunk",
        type=int,
        default=CLASSES_PER_PASS_ON_CPU,
        help="classes of one pass of ours in training; 0 = all",
    )
    parser.add_argument("--no-agreement", action="store_true", help="time even if the results are not compared")
    parser.add_argument("--output", type=pathlib.Path, help="results file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the works that were asked for; returns 0 if the programs agreed and were timed."""
    options = parse(argv)
    date = datetime.date.today().isoformat()
    output = options.output or ROOT / "benchmarks" / "results" / f"side_by_side_{options.device}_{date}.json"
    with tempfile.TemporaryDirectory() as folder:
        try:
            weights = options.weights or _random_weights(options, pathlib.Path(folder))
            for work in options.work:
                record = compare(_job(options, work, weights), options, pathlib.Path(folder))
                results_file.add(output, record)
                print(summary(record), flush=True)
        except (RuntimeError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(output)
    return 0


def _job(options: argparse.Namespace, work: str, weights: pathlib.Path) -> Job:
    from ahs_seg_jax.vocabulary import Vocabulary  # only here: the parent needs no JAX otherwise

    names = Vocabulary.named(VOCABULARIES.get(work, "ade20k_150")).names
    return Job(
        work=work,
        folder=str(options.program.resolve()),
        names=names[: options.classes or len(names)],
        weights=str(weights),
        batch=options.batch,
        repetitions=options.repetitions,
        threads=options.threads,
        device=options.device,
        dtype=options.dtype,
        class_chunk=options.class_chunk if work == "training" else 0,
    )


def _random_weights(options: argparse.Namespace, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "weights.pth"
    print("random weights for both", flush=True)
    turn("published", _job(options, "weights", path), folder)
    return path


def turn(program: str, job: Job, folder: pathlib.Path) -> dict[str, Any]:
    """The reply of one process of one program. Raises RuntimeError with its last lines if it fails."""
    environment = huge_pages.with_huge_pages() if program == "ours" else dict(os.environ)
    return reply_of(PROGRAMS[program], job, folder, f"{program}, {job.work}", environment)


def reply_of(module: str, job: Any, folder: pathlib.Path, title: str, environment: dict[str, str]) -> dict[str, Any]:
    """What `python -m MODULE JOB OUTPUT` writes. Raises RuntimeError with its last lines if it fails."""
    request, reply = folder / "job.json", folder / "reply.json"
    job.write(request)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    environment = environment | {"JAX_COMPILATION_CACHE_DIR": cache, "OMP_NUM_THREADS": str(job.threads)}
    command = [sys.executable, "-m", module, str(request), str(reply)]
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        last = done.stdout.decode(errors="replace").splitlines()[-LINES_OF_ERROR:]
        killed = " (killed, perhaps for lack of memory)" if done.returncode == -9 else ""
        raise RuntimeError("\n".join([f"{title}: exit status {done.returncode}{killed}", *last]))
    return json.loads(reply.read_text())


def compare(job: Job, options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The record of all turns of one work. Raises RuntimeError if a program fails or the two disagree."""
    found: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
    agreement = None
    for number in range(options.rounds):
        for program in PROGRAMS:
            first = number == 0
            answer = str(folder / f"{program}.npz") if first and not options.no_agreement else ""
            print(f"{job.work}, round {number + 1} of {options.rounds}: {program} ", end="", flush=True)
            found[program].append(turn(program, dataclasses.replace(job, answer=answer, count_flops=first), folder))
            print(" ".join(f"{value:.3g} s" for value in found[program][-1]["seconds"]), flush=True)
        if number == 0 and not options.no_agreement:
            answers = {program: dict(np.load(folder / f"{program}.npz")) for program in PROGRAMS}
            agreement = check_agreement(answers["published"], answers["ours"], job.dtype)
    return _record(job, options, found, agreement)


def check_agreement(
    published: dict[str, np.ndarray], ours: dict[str, np.ndarray], dtype: str = "float32"
) -> dict[str, float]:
    """The differences of the two results. Raises RuntimeError if they are too large for the same work."""
    if "loss" in published:
        found = {name: float(abs(ours[name] - published[name]) / abs(published[name])) for name in published}
        largest = max(found.values())
    else:
        largest = float(np.abs(published["probabilities"] - ours["probabilities"]).max())
        equal = float((published["labels"] == ours["labels"]).mean())
        found = {"largest_difference": largest, "equal_labels": equal}
    # bfloat16 has only three digits: with it the labels must agree, and the probabilities need not.
    tolerated = largest <= LARGEST_DIFFERENCE or dtype != "float32"
    if not tolerated or found.get("equal_labels", 1.0) < FEWEST_EQUAL_LABELS:
        raise RuntimeError(
            f"the two programs do not agree: {found}; allowed are differences of {LARGEST_DIFFERENCE} and "
            f"{FEWEST_EQUAL_LABELS:.0%} equal labels. Their times would be of different work"
        )
    return found


def _record(
    job: Job, options: argparse.Namespace, found: dict[str, list[dict[str, Any]]], agreement: dict[str, float] | None
) -> dict[str, Any]:
    sides = {program: _side(turns, options.device) for program, turns in found.items()}
    published, ours = sides["published"], sides["ours"]
    settings = dataclasses.asdict(job) | {
        "names": len(job.names),
        "weights": "published" if options.weights else "random",
    }
    if huge_pages.SETTING in os.environ.get(huge_pages.VARIABLE, ""):
        settings["memory"] = os.environ[huge_pages.VARIABLE]  # for both; else ours alone asks for huge pages
    settings = {name: value for name, value in settings.items() if name not in ("answer", "folder", "count_flops")}
    record = {
        "key": results_file.key(f"side_by_side_{job.work}", settings),
        "name": f"side_by_side_{job.work}",
        "settings": settings | {"rounds": options.rounds, "program": options.program.resolve().name},
        "agreement": agreement,
        **sides,
        "times_faster": published["median"] / ours["median"],
        "times_less_processor_time": published["processor_seconds"] / ours["processor_seconds"],
        "times_faster_each_round": [
            statistics.median(a["seconds"]) / statistics.median(b["seconds"])
            for a, b in zip(found["published"], found["ours"], strict=True)
        ],
        "memory_share": ours["peak_bytes"] / published["peak_bytes"],
        "hardware": found["ours"][0].get("hardware"),
        "versions": found["ours"][0].get("versions", {}) | found["published"][0].get("versions", {}),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if published["flops"] and ours["flops"]:
        record["flops_share"] = ours["flops"] / published["flops"]
    return record


def _side(turns: list[dict[str, Any]], device: str) -> dict[str, Any]:
    seconds = [value for one in turns for value in one["seconds"]]
    name = "device_bytes" if device == "cuda" else "peak_bytes"
    peaks = [one.get(name) or one["peak_bytes"] for one in turns]
    return {
        "seconds": seconds,
        "median": statistics.median(seconds),
        # The sum over all cores: it is less disturbed than the time by other programs on the machine.
        "processor_seconds": statistics.median(value for one in turns for value in one["processor_seconds"]),
        "peak_bytes": statistics.median(peaks),
        "flops": turns[0].get("flops"),
    }


def summary(record: dict[str, Any]) -> str:
    """The ratios in one line."""
    parts = [
        (
            f"{record['name']}: {record['times_faster']:.2f} times faster "
            f"({record['published']['median']:.3g} s and {record['ours']['median']:.3g} s)"
        ),
        f"{record['times_less_processor_time']:.2f} times less processor time",
        f"{record['memory_share']:.2f} of the peak memory",
    ]
    if "flops_share" in record:
        parts.append(f"{record['flops_share']:.2f} of the matrix work")
    if record["agreement"]:
        parts.append(f"agreement {record['agreement']}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
