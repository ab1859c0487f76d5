"""Runs one benchmark in this process: `python -m benchmarks.worker NAME SETTINGS_JSON OUTPUT`."""

import datetime
import json
import os
import pathlib
import sys

import jax

from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.versions import code_hash, versions
from benchmarks import machine, memory, registry
from benchmarks.measure import Action, Program, Record, measure
from benchmarks.settings import Settings, complete


def run(name: str, settings: Settings) -> Record:
    """The record of the benchmark `name`."""
    benchmark = registry.ALL[name]
    settings = complete(benchmark.settings(settings), jax.default_backend(), jax.device_count())
    work = benchmark.build(settings)
    if isinstance(work, Program | Action):
        record = measure(work, settings.repetitions, settings.dtype)
    else:
        peak = {"process_bytes": memory.peak_process_bytes(), "device_bytes": machine.peak_device_bytes()}
        record = work | {"peak_memory": peak}
    mesh = make_mesh()
    about = {
        "title": benchmark.title,
        "series": benchmark.series,
        "amount": benchmark.amount,
        "settings": settings.to_json(),
        "model": {"adaptation": settings.model().adaptation, "grid": settings.model().grid},
        "mesh": {axis: size for axis, size in mesh.shape.items()},
        "hardware": machine.describe(),
        "versions": versions(),
        "code": code_hash(),
        "huge_pages": memory.has_huge_pages(),
        "compilation_cache": bool(os.environ.get("JAX_COMPILATION_CACHE_DIR")),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return {"name": name, **about, **record}


def main() -> None:
    """Reads the command line, writes the record."""
    name, settings, output = sys.argv[1:]
    record = run(name, Settings.from_json(json.loads(settings)))
    pathlib.Path(output).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
