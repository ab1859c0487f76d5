"""The published PyTorch program and ours at the same work, on the same weights, one after the other in turns.

    python -m benchmarks.published.side_by_side --program FOLDER --work training whole sliding
    python -m benchmarks.published.side_by_side --program FOLDER --compile --onnx      # beside its faster forms too
    python -m benchmarks.published.side_by_side --program FOLDER --work naclip

FOLDER holds the published AHS-Seg or CAT-Seg, for `naclip` the published NACLIP, unpacked; none of their code is in
this repository. It also needs `pip install -e ".[bench,convert]"`, and for `--onnx` the extra onnx; NACLIP has eager
mode alone here. Before anything is timed the programs must agree
on the probabilities of every class, or on loss and gradient. Each turn is a process of its own, so that it has all
memory and its peak is its own.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.devices import huge_pages
from benchmarks import results_file
from benchmarks.published.job import NACLIP, WORKS, Job
from benchmarks.settings import CLASSES_PER_PASS_ON_CPU

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {"published": "benchmarks.published.theirs", "ours": "benchmarks.published.ours"}
# The published model's faster forms, which take their turns between the two: runner of the job -> module.
PEERS = {"compiled": "benchmarks.published.theirs", "onnxruntime": "benchmarks.published.onnx_run"}
COMPILERS = ("g++", "clang++")  # torch.compile on a CPU needs one
OTHER_PROGRAMS = {NACLIP: "benchmarks.published.naclip"}  # of the published side, by the work's first word
VOCABULARIES = {"training": "coco_stuff", "whole": "ade20k_150", "sliding": "ade20k_150", NACLIP: "voc_20"}
ROUNDS = 3
LARGEST_DIFFERENCE = 1e-2  # between probabilities, and between losses and gradients relative to their size
FEWEST_EQUAL_LABELS = 0.99
LINES_OF_ERROR = 15


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.published.side_by_side", description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--work", nargs="+", choices=[*WORKS, NACLIP], default=list(WORKS))
    parser.add_argument("--weights", type=pathlib.Path, help="a published checkpoint; by default random weights")
    parser.add_argument("--classes", type=int, default=0, help="the first of the vocabulary's; 0 = all 171, 150 or 20")
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
    parser.add_argument(
        "--compile",
        nargs="?",
        const="default",
        choices=("default", "reduce-overhead", "max-autotune"),
        metavar="MODE",
        help="the published program under torch.compile as well, in its mode default or another",
    )
    parser.add_argument(
        "--onnx", action="store_true", help="in inference, the published model exported to ONNX Runtime as well"
    )
    parser.add_argument("--no-agreement", action="store_true", help="time even if the results are not compared")
    parser.add_argument("--output", type=pathlib.Path, help="results file")
    options = parser.parse_args(argv)
    if NACLIP in options.work and len(options.work) > 1:
        parser.error(f"--work {NACLIP} runs another program than the other works; run it by itself")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the works that were asked for; returns 0 if the programs agreed and were timed."""
    options = parse(argv)
    date = datetime.date.today().isoformat()
    output = options.output or ROOT / "benchmarks" / "results" / f"side_by_side_{options.device}_{date}.json"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _check_tools(options)
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


def _check_tools(options: argparse.Namespace) -> None:
    """Raises RuntimeError, before anything long starts, if something is missing that the options need."""
    found = [name for name in (os.environ.get("CXX", ""), *COMPILERS) if name and shutil.which(name)]
    if options.compile and options.device == "cpu" and not found:
        raise RuntimeError(
            f"torch.compile on a CPU needs a C++ compiler, and there is none of {', '.join(COMPILERS)}; install one "
            "(Debian: apt-get install g++), or leave out --compile"
        )
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if options.onnx and missing:
        raise RuntimeError(f"--onnx needs {' and '.join(missing)}: pip install -e '.[onnx]'; or leave out --onnx")


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
        mode=options.compile or "default",
        dtype=options.dtype,
        class_chunk=options.class_chunk if work == "training" else 0,
    )


def _random_weights(options: argparse.Namespace, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "weights.pth"
    print("random weights for both", flush=True)
    work = f"{NACLIP}_weights" if NACLIP in options.work else "weights"
    turn("published", _job(options, work, path), folder)
    return path


def turn(program: str, job: Job, folder: pathlib.Path) -> dict[str, Any]:
    """The reply of one process of one program. Raises RuntimeError with its last lines if it fails."""
    environment = huge_pages.with_huge_pages() if program == "ours" else dict(os.environ)
    other = OTHER_PROGRAMS.get(job.work.partition("_")[0]) if program == "published" else None
    return reply_of(other or (PROGRAMS | PEERS)[program], job, folder, f"{program}, {job.work}", environment)


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


def peers(options: argparse.Namespace, work: str) -> list[str]:
    """The published model's other forms that take part in a work."""
    if work.partition("_")[0] in OTHER_PROGRAMS:
        return []
    return ["compiled"] * bool(options.compile) + ["onnxruntime"] * bool(options.onnx and work != "training")


def compare(job: Job, options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The record of all turns of one work. Raises RuntimeError if a program fails or two disagree."""
    programs = ["published", *peers(options, job.work), "ours"]
    found: dict[str, list[dict[str, Any]]] = {program: [] for program in programs}
    agreement: dict[str, dict[str, float]] = {}
    if "onnxruntime" in programs:
        print(f"{job.work}: the published model as ONNX", flush=True)
        job = dataclasses.replace(job, exported=str(folder / f"{job.work}.onnx"))
        turn("published", dataclasses.replace(job, runner="export"), folder)
    for number in range(options.rounds):
        first = number == 0
        for program in programs:
            answer = folder / f"{program}.npz" if first and not options.no_agreement else None
            print(f"{job.work}, round {number + 1} of {options.rounds}: {program} ", end="", flush=True)
            found[program].append(turn(program, _of_turn(job, program, first, answer), folder))
            print(" ".join(f"{value:.3g} s" for value in found[program][-1]["seconds"]), flush=True)
            if answer and program != "published":
                theirs, other = (dict(np.load(folder / f"{one}.npz")) for one in ("published", program))
                dtype = job.dtype if program == "ours" else "float32"
                agreement[program] = check_agreement(theirs, other, dtype)
    return _record(job, options, found, agreement)


def _of_turn(job: Job, program: str, first: bool, answer: pathlib.Path | None) -> Job:
    return dataclasses.replace(
        job,
        runner=program if program in PEERS else "eager",
        answer=str(answer or ""),
        count_flops=first and program in PROGRAMS,
    )


def check_agreement(
    published: dict[str, np.ndarray], ours: dict[str, np.ndarray], dtype: str = "float32"
) -> dict[str, float]:
    """The differences of two results. Raises RuntimeError if they are too large for the same work."""
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
    job: Job,
    options: argparse.Namespace,
    found: dict[str, list[dict[str, Any]]],
    agreement: dict[str, dict[str, float]],
) -> dict[str, Any]:
    sides = {program: _side(turns, options.device) for program, turns in found.items()}
    published, ours = sides["published"], sides["ours"]
    settings = dataclasses.asdict(job) | {
        "names": len(job.names),
        "weights": "published" if options.weights else "random",
    }
    if huge_pages.SETTING in os.environ.get(huge_pages.VARIABLE, ""):
        settings["memory"] = os.environ[huge_pages.VARIABLE]  # for all; else ours alone asks for huge pages
    left_out = ("answer", "folder", "count_flops", "runner", "mode", "exported")
    settings = {name: value for name, value in settings.items() if name not in left_out}
    record: dict[str, Any] = {
        "key": results_file.key(f"side_by_side_{job.work}", settings),
        "name": f"side_by_side_{job.work}",
        "settings": settings | {"rounds": options.rounds, "program": options.program.resolve().name},
        "agreement": agreement.get("ours"),
        "published": published,
        "ours": ours,
        **_ratios(published, ours),
        "times_faster_each_round": [
            statistics.median(a["seconds"]) / statistics.median(b["seconds"])
            for a, b in zip(found["published"], found["ours"], strict=True)
        ],
        "hardware": found["ours"][0].get("hardware"),
        "versions": {name: value for turns in found.values() for name, value in turns[0].get("versions", {}).items()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if others := {name: side for name, side in sides.items() if name in PEERS}:
        record["peers"] = {
            name: side | _ratios(side, ours) | {"agreement": agreement.get(name)} for name, side in others.items()
        }
    if "compiled" in others:
        record["peers"]["compiled"] |= {
            "mode": job.mode,
            "compile_seconds": [one.get("compile_seconds") for one in found["compiled"]],
        }
    if published["flops"] and ours["flops"]:
        record["flops_share"] = ours["flops"] / published["flops"]
    return record


def _ratios(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """What our program takes of another's time and memory."""
    return {
        "times_faster": theirs["median"] / ours["median"],
        "times_less_processor_time": theirs["processor_seconds"] / ours["processor_seconds"],
        "memory_share": ours["peak_bytes"] / theirs["peak_bytes"],
    }


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
    for name, peer in record.get("peers", {}).items():
        parts.append(f"{peer['times_faster']:.2f} times faster than {name} ({peer['median']:.3g} s)")
    if record["agreement"]:
        parts.append(f"agreement {record['agreement']}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
