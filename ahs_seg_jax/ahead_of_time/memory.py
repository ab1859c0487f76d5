"""The memory that a configuration needs on each device, predicted by compiling its real programs without running them.

    ahs-seg memory --config=configs/vitb.py                          # on the devices at hand
    ahs-seg memory --config=configs/vitb.py --topology=v5e:2x2       # for a TPU, on any machine with libtpu
    ... --config.train.batch_size=16 --config.mesh.fsdp=4 --mode=eval

No data and no weights are read. The figures are the compiler's own: bytes of arguments, results and temporaries on one
device, floating-point operations, bytes moved, and the collective operations in the program. What stands in the body of
a loop counts once.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax

from ahs_seg_jax import config, errors
from ahs_seg_jax.ahead_of_time import programs, tpu_compiler
from ahs_seg_jax.devices.mesh import make_mesh

GIB = 2**30
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Memory of a device in GiB, by the name of its kind in a topology; from the vendor's data sheets. A device is a chip;
# only on a v4, compiled ahead of time, it is one of the chip's two cores.
DEVICE_GIB = {"v4": 16, "v5e": 16, "v5p": 95, "v6e": 32}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one program needs on each device."""

    arguments: int  # bytes
    temporaries: int  # bytes, and results that do not take the place of arguments
    collectives: dict[str, int]  # how many of each; a loop's body counts once
    operations: float | None = None  # floating-point operations; a loop's body counts once
    moved: float | None = None  # bytes; a loop's body counts once

    @property
    def peak(self) -> int:
        """Bytes of arguments, results and temporaries together: what the device must have."""
        return self.arguments + self.temporaries


def collectives(program: str) -> dict[str, int]:
    """How many collective operations of each kind stand in a compiled program's text."""
    found = collections.Counter(re.findall(rf"= [^=]*? ({'|'.join(COLLECTIVES)})(?:-start)?\(", program))
    return {name: found[name] for name in COLLECTIVES if found[name]}


def figures(compiled: Any) -> Figures:
    """The compiler's figures of a compiled program."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Figures(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + results,
        collectives=collectives(compiled.as_text()),
        operations=float(cost.get("flops", 0.0)),
        moved=float(cost.get("bytes accessed", 0.0)),
    )


def figures_ahead_of_time(found: tpu_compiler.Planned) -> Figures:
    """The figures of a program that was compiled for a TPU which is not there."""
    return Figures(found.arguments, found.peak - found.arguments, collectives(found.program))


def report(title: str, found: Figures, available: float | None) -> str:
    """Lines for people. `available` is a device's memory in GiB, where it is known."""
    of = f" of {available:g} GiB: {'fits' if found.peak <= available * GIB else 'DOES NOT FIT'}" if available else ""
    lines = [
        f"{title}, on each device:",
        f"  peak         {found.peak / GIB:8.2f} GiB{of}",
        f"  arguments    {found.arguments / GIB:8.2f} GiB (parameters, optimiser state, batch)",
        f"  temporaries  {found.temporaries / GIB:8.2f} GiB (and results)",
    ]
    if found.operations is not None and found.moved is not None:
        work = f"{found.operations / 1e12:8.2f} TFLOP, {found.moved / GIB:.1f} GiB moved (loop bodies count once)"
        lines.append(f"  operations   {work}")
    shown = ", ".join(f"{count} {name}" for name, count in found.collectives.items())
    return "\n".join([*lines, f"  collectives  {shown or 'none'}"])


def device_gib(devices: Sequence[Any], topology: str) -> float | None:
    """Memory of one device in GiB, where it is known."""
    if topology:
        return DEVICE_GIB.get(topology.split(":")[0])
    stats = devices[0].memory_stats() or {}
    return stats["bytes_limit"] / GIB if "bytes_limit" in stats else None


def report_for(config_path: str, overrides: Sequence[str] = (), *, topology: str = "", mode: str = "train") -> str:
    """The report on one program of a configuration file: a training step, or with mode `eval` a batch of an evaluation.

    `overrides` are fields of the configuration, `--config.some.field=value`. `topology` names TPUs to compile for, such
    as v5e:2x2; without one the program is compiled for the devices at hand. Raises InputError for a configuration that
    does not fit itself or the devices, or that cannot be compiled.
    """
    # Which weights a run starts from changes nothing here, and random ones need no file.
    experiment = config.load(config_path, [*overrides, f"--config.init={config.RANDOM_INIT}"])
    devices = programs.topology_devices(topology) if topology else jax.devices()
    with errors.checking_input():
        mesh = make_mesh(devices, experiment.mesh)
        if topology:
            found = figures_ahead_of_time(tpu_compiler.planned(experiment, mode, topology))
        else:
            found = figures(programs.lower(experiment, mode, mesh).compile())
    size = (experiment.train if mode == "train" else experiment.eval).batch_size
    axes = " x ".join(f"{axis} {length}" for axis, length in mesh.shape.items())
    title = f"{experiment.name}, {mode}, batch {size} over {mesh.devices.size} devices ({axes})"
    return report(title, found, device_gib(devices, topology))
