"""A TPU program's memory and collectives from the first half of its compilation, on any machine with libtpu.

The TPU compiler optimises and schedules a program, splits it over the devices and gives every array its place in
memory. Then it writes machine code, which takes many times as long and changes none of that. So the compiler runs in a
process of its own, which is ended as soon as it has written down its decisions (XLA's dump).
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from ahs_seg_jax import errors
from ahs_seg_jax.ahead_of_time import programs
from ahs_seg_jax.config import Experiment, command_line
from ahs_seg_jax.devices.mesh import make_mesh

DECIDED = ("*.after_optimizations-memory-usage-report.txt", "*.after_optimizations-buffer-assignment.txt")
LAST = "*.after_optimizations_after_buffer_assignment.txt"  # the compiler begins to write it when those are complete
# The machine has no TPU: libtpu shall neither look for one, nor lock it, nor ask the cloud about it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Planned:
    """What the compiler decided for each device. Bytes of its main memory, without the machine code itself."""

    peak: int  # all memory that the program needs
    arguments: int  # the part of it for parameters, optimiser state and batch; results that take their place included
    program: str  # the optimised program of one device, as text


def planned(experiment: Experiment, mode: str, topology: str) -> Planned:
    """What the compiler decides on the program of `programs.lower` for a topology such as v5e:4x4.

    The devices are arranged as `experiment.mesh` says. Raises InputError if the program cannot be compiled: libtpu is
    missing, there is no such topology, a batch cannot be split, or the chip's memory is too small.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump = pathlib.Path(folder)
        wanted = {"experiment": dataclasses.asdict(experiment), "mode": mode, "topology": topology, "dump": folder}
        printed = _compile(json.dumps(wanted), dump)
        if not _decided(dump):
            raise errors.InputError(f"{topology}: {refusal(printed)}")
        report, buffers = (next(dump.glob(pattern)).read_text() for pattern in DECIDED)
        program = next(dump.glob("*.after_optimizations.txt")).read_text()
        return Planned(total(report), arguments(buffers), program)


def _compile(wanted: str, dump: pathlib.Path) -> str:
    """Runs `main` in another process until all is decided or the process ends; returns what it printed."""
    paths = [str(pathlib.Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "ahs_seg_jax.ahead_of_time.tpu_compiler"]
    with (dump / "wanted").open("w+") as stdin, (dump / "printed").open("w+") as printed:
        stdin.write(wanted)
        stdin.seek(0)
        process = subprocess.Popen(command, stdin=stdin, stdout=printed, stderr=printed, env=environment)
        try:
            while not _decided(dump) and process.poll() is None:
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        printed.seek(0)
        return printed.read()


def _decided(dump: pathlib.Path) -> bool:
    return all(any(dump.glob(pattern)) for pattern in (*DECIDED, LAST))


def refusal(printed: str) -> str:
    """The line that says why a compilation ended without a result."""
    found = re.findall(r"(?m)Ran out of memory.*$|^.*[Ee]rror: .*$", printed)
    return (found[-1] if found else printed.strip()[-300:]).strip()


def total(report: str) -> int:
    """Bytes of main memory (the first, `default`) in XLA's report of a program's memory."""
    found = re.search(r"Memory Space: default \(color=0\)\s+Total bytes: (\d+)", report)
    assert found, report[:300]
    return int(found[1])


def arguments(buffers: str) -> int:
    """Bytes of the arguments in XLA's list of allocations."""
    return sum(int(size) for size in re.findall(r"(?m)^allocation \d+: size (\d+), .*?parameter \d+", buffers))


def main() -> None:
    """Compiles the program that stdin describes; `planned` ends this process when it knows enough."""
    wanted: dict[str, Any] = json.load(sys.stdin)
    try:
        experiment = command_line.from_config_dict(wanted["experiment"])
        with errors.checking_input():
            mesh = make_mesh(programs.topology_devices(wanted["topology"]), experiment.mesh)
            lowered = programs.lower(experiment, wanted["mode"], mesh)
    except errors.InputError as error:
        sys.exit(f"error: {error}")
    lowered.compile(compiler_options={"xla_dump_to": wanted["dump"], "xla_dump_hlo_as_text": True})


if __name__ == "__main__":
    main()
