"""Runs benchmarks, each in a process of its own, and collects their records in a results file.

    python -m benchmarks.run                                     everything, small model
    python -m benchmarks.run --size vitb16 --only train_step 'part_*'
    python -m benchmarks.run --quick --output benchmarks/results/mine.json

The same command continues a run that was stopped: what the output file holds is not measured again without --again.
"""

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax import threads
from ahs_seg_jax.devices import huge_pages
from ahs_seg_jax.models import architecture
from benchmarks import registry, results_file
from benchmarks.settings import Settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
QUICK_REPETITIONS = 3
LINES_OF_ERROR = 15


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="benchmarks, * for any letters")
    parser.add_argument("--size", choices=list(architecture.PRESETS), default="tiny")
    parser.add_argument("--dtype", choices=architecture.DTYPES, default="float32")
    parser.add_argument("--batch", type=int, default=0, help="images of a training step")
    parser.add_argument("--classes", type=int, default=0, help="of inference")
    parser.add_argument("--train-classes", type=int, default=0)
    parser.add_argument("--class-chunk", type=int, default=-1, help="classes of one pass in training; 0 = all at once")
    parser.add_argument("--remat", choices=architecture.REMAT, default="", help="what the backward pass computes again")
    parser.add_argument(
        "--window-attention", choices=architecture.WINDOW_ATTENTION, default="", help="what attends in windows"
    )
    parser.add_argument("--repetitions", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and points of the series")
    parser.add_argument("--again", action="store_true", help="measure what the output file holds, too")
    parser.add_argument("--output", type=pathlib.Path, help="results file; by default named after device and date")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one benchmark")
    parser.add_argument("--list", action="store_true", help="print the benchmarks' names and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks that were asked for; returns how many failed."""
    options = parse(argv)
    try:
        names = registry.chosen(options.only, options.quick)
        output = options.output or _default_output()
        done = {record["key"] for record in results_file.read(output) if "error" not in record}
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if options.list:
        print("\n".join(f"{name:28}{registry.ALL[name].title}" for name in names))
        return 0
    failed = 0
    print(f"{len(names)} benchmarks -> {output}", flush=True)
    for number, name in enumerate(names, 1):
        asked = _settings(options).to_json()
        key = results_file.key(name, asked)
        print(f"[{number}/{len(names)}] {name} ", end="", flush=True)
        if key in done and not options.again:
            print("done before")
            continue
        started = time.monotonic()
        record = {"key": key, **_run(name, asked, options.timeout)}
        results_file.add(output, record)
        failed += "error" in record
        print(f"{summary(record)}  [{time.monotonic() - started:.0f} s]", flush=True)
    print(f"{output}: {len(names) - failed} benchmarks, {failed} failed")
    return failed


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        size=options.size,
        dtype=options.dtype,
        batch=options.batch,
        train_classes=options.train_classes,
        classes=options.classes,
        class_chunk=options.class_chunk,
        remat=options.remat,
        window_attention=options.window_attention,
        repetitions=options.repetitions or (QUICK_REPETITIONS if options.quick else 0),
    )


def _run(name: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The record that a process of its own makes of a benchmark; if it fails, its last lines are the `error` in it."""
    with tempfile.TemporaryDirectory() as folder:
        output, log = pathlib.Path(folder) / "record.json", pathlib.Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.worker", name, json.dumps(asked), str(output)]
        with log.open("w") as lines:
            try:
                status = subprocess.run(
                    command,
                    check=False,
                    cwd=ROOT,
                    env=huge_pages.with_huge_pages(),
                    stdout=lines,
                    stderr=lines,
                    timeout=timeout,
                ).returncode
            except subprocess.TimeoutExpired:
                return {"name": name, "settings": asked, "error": f"stopped after {timeout:g} s"}
        if status == 0:
            return json.loads(output.read_text())
        last = log.read_text(errors="replace").splitlines()[-LINES_OF_ERROR:]
        reason = f"exit status {status}" + (" (killed, perhaps for lack of memory)" if status == -9 else "")
        return {"name": name, "settings": asked, "error": "\n".join([reason, *last])}


def summary(record: dict[str, Any]) -> str:
    """A record in one line: time, spread, throughput, share of the ceiling, memory."""
    if "error" in record:
        return f"FAILED: {record['error'].splitlines()[-1]}"
    seconds, memory = record["seconds"], record["peak_memory"]
    low, high = seconds["quartiles"]
    parts = [f"{seconds['median']:.4g} s ({low:.4g} to {high:.4g})", f"{record['throughput']:.4g} {record['unit']}/s"]
    if "ceiling_share" in record:
        parts.append(f"{record['flops'] / 1e9:.4g} GFLOP, {100 * record['ceiling_share']:.0f} % of the ceiling")
    if "model_share" in record:
        parts.append(f"{100 * record['model_share']:.0f} % of the model's own rate")
    peak = memory.get("device_bytes") or memory["process_bytes"]
    return ", ".join([*parts, f"{peak / 1e9:.2f} GB"])


def _default_output() -> pathlib.Path:
    """A results file named after the device and the day.

    Another process asks JAX for the device, because the device's memory must stay free for the benchmarks.
    """
    ask = "import jax; print(jax.devices()[0].device_kind, jax.device_count())"
    output = subprocess.run([sys.executable, "-c", ask], check=True, stdout=subprocess.PIPE, text=True).stdout
    device = re.sub(r"[^a-z0-9]+", "-", output.splitlines()[-1].lower()).strip("-")
    cores = f"-{threads.cores()}core" if device.startswith("cpu") else ""
    return RESULTS / f"{device}{cores}_{datetime.date.today().isoformat()}.json"


if __name__ == "__main__":
    sys.exit(min(main(), 1))
