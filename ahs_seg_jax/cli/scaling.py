"""`ahs-seg benchmark --scaling`: the small model and ViT-B on 1, 2, 4, ... of the processors, as a table to paste.

Each measurement is a process of its own, which may use so many processors from its start: threads, passes beside each
other and the plan of the memory follow from that. Its compiled programs are its own, since they are compiled for its
number of processors. This module, run as a program with model, processors and repetitions, is such a process.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

NAMES = {"tiny": 20, "vitb16": 150}  # at once, by model
SIZE = (480, 640)  # of the images, (h, w) in pixels
MOST_REPETITIONS = {"vitb16": 3}
SECONDS = 1800  # of one measurement, at most


def amounts(cores: int) -> list[int]:
    """1, 2, 4, ... and all: `6 -> [1, 2, 4, 6]`."""
    powers = [1 << power for power in range(cores.bit_length())]
    return [*powers, cores] if powers[-1] < cores else powers


def run(repetitions: int, json_file: pathlib.Path | None = None) -> None:
    """Measures and prints. Raises ValueError where processors cannot be chosen, OSError if a process fails."""
    from ahs_seg_jax import threads, versions

    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--scaling chooses the processors of a process, which {platform.system()} does not let it do")
    cores = threads.cores()
    about = {"processor": versions.processor(), "cores": cores, "of": os.cpu_count(), "system": platform.platform()}
    print(f"{about['processor']}, {cores} of {about['of']} processors, {about['system']}")
    print(", ".join(f"{name} {version}" for name, version in versions.versions().items()))
    print("one picture of 640 x 480 pixels by one view, words encoded before; ViT-B has random weights\n")
    print("| model | names | processors | passes at once | classes a pass | an image | times faster | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for model in NAMES:
        alone = None
        for count in amounts(cores):
            row = _measured(model, count, min(repetitions, MOST_REPETITIONS.get(model, repetitions)))
            alone = alone or row["median"]
            rows.append(row)
            print(
                f"| {model} | {NAMES[model]} | {count} | {row['passes']} | {row['chunk']} | {1000 * row['median']:.1f} "
                f"ms | {alone / row['median']:.2f} | {row['peak_bytes'] / 1e9:.2f} GB |",
                flush=True,
            )
    if json_file is not None:
        report = about | {"versions": versions.versions(), "size": list(SIZE), "rows": rows}
        json_file.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def _measured(model: str, processors: int, repetitions: int) -> dict[str, Any]:
    """What a process finds that may use so many processors."""
    command = [sys.executable, "-m", "ahs_seg_jax.cli.scaling", model, str(processors), str(repetitions)]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, env=environment, check=False, timeout=SECONDS, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise OSError(f"{model} on {processors} processor(s) ended with exit status {done.returncode}:\n{last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(model: str, processors: int, repetitions: int) -> dict[str, Any]:
    """Times images in this process, which uses so many processors from now on; JAX must not be imported yet."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])

    import jax
    import numpy as np

    from ahs_seg_jax.checkpoints import starting
    from ahs_seg_jax.cli.timing import peak_memory
    from ahs_seg_jax.inference import buckets
    from ahs_seg_jax.models import architecture
    from ahs_seg_jax.segmenter import Segmenter

    config, names = architecture.PRESETS[model](), [f"thing {number}" for number in range(NAMES[model])]
    options: dict[str, Any] = {"protocol": "whole", "text_cache": False}
    if model == "tiny":
        segmenter = Segmenter.from_pretrained(model, **options)
    else:
        segmenter = Segmenter(config, starting.plausible_params(config), **options)
    seconds = []
    for index in range(2 + repetitions):
        picture = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)
        started = time.perf_counter()
        segmenter(picture, names)
        seconds.append(time.perf_counter() - started)
    plan = segmenter.plan(SIZE, len(names))
    return {
        "model": model,
        "names": len(names),
        "processors": processors,
        "passes": min(buckets.passes_at_once(jax.default_backend()), -(-plan.kept // plan.chunk)),
        "chunk": plan.chunk,
        "median": float(np.median(seconds[2:])),
        "seconds": seconds[2:],
        "first": seconds[0],
        "peak_bytes": peak_memory().get("process", 0),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
