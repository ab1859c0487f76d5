"""`ahs-seg benchmark`: how fast a model is on this machine."""

import json
import os
import pathlib
import platform
from typing import Annotated, Any

import typer

from ahs_seg_jax import threads
from ahs_seg_jax.cli import options


def benchmark(
    context: typer.Context,
    model: options.Model = "tiny",
    activation: options.Activation = None,
    method: options.Method = "model",
    class_count: Annotated[int, typer.Option(help="Names at once.", min=1)] = 20,
    width: Annotated[int, typer.Option(help="Of the images, pixels.", min=1)] = 640,
    height: Annotated[int, typer.Option(help="Of the images, pixels.", min=1)] = 480,
    repetitions: Annotated[int, typer.Option(help="Timed calls of each stage.", min=1)] = 10,
    memory_gb: options.MemoryGB = None,
    json_file: Annotated[
        pathlib.Path | None, typer.Option("--json", help="Write every time, versions and hardware to this file.")
    ] = None,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="The small model and ViT-B on 1, 2, 4, ... processors, as a table to paste."),
    ] = False,
) -> None:
    """How fast a model is on this machine.

    Words, image features, whole images, windows and the peak memory of the Segmenter as a user calls it. The parts of
    training and inference, operation counts, and the published program beside ours are measured by
    python -m benchmarks.run, in the source repository.
    """
    if scaling:
        if others := options.given(context, "scaling", "repetitions", "json_file"):
            raise typer.BadParameter(f"--scaling has models and pictures of its own; leave out {others}")
        options.finish(lambda: run_scaling(repetitions, json_file))
    by = options.method_or_none(method)
    options.finish(lambda: run(model, class_count, (height, width), repetitions, memory_gb, json_file, by, activation))


def run(
    model: str,
    class_count: int,
    size: tuple[int, int],
    repetitions: int,
    memory_gb: float | None,
    json_file: pathlib.Path | None,
    method: str | None = None,
    activation: str | None = None,
) -> None:
    """Prints a line for each stage as it is done; the file is written at the end. Raises OSError if it cannot be."""
    from ahs_seg_jax.cli.timing import measure, peak_memory
    from ahs_seg_jax.segmenter import Segmenter

    if json_file is not None:
        _check_writable(json_file)
    segmenter = Segmenter.from_pretrained(model, method=method, activation=activation, memory_gb=memory_gb)
    for protocol in segmenter.protocols:
        segmenter.plan(size, class_count, protocol)  # a bound that does not suffice is said now
    about = _about(model, class_count, size, repetitions)
    about["settings"]["method"] = segmenter.method
    by = f" by {segmenter.method}" if segmenter.training_free else ""
    print(f"{model}{by}, {class_count} names, {size[1]} x {size[0]} pixels; {about['hardware']}")
    print(f"{'stage':<22}{'median':>12}{'spread':>9}{'per second':>13}{'first call':>13}")
    timings = []
    for timing in measure(segmenter, class_count, size, repetitions):
        timings.append(timing)
        note = f"  {timing.compilations} compilation(s) among the timed calls" if timing.compilations else ""
        print(
            f"{timing.stage:<22}{1000 * timing.median:>9.1f} ms{100 * timing.spread:>7.0f} %{1 / timing.median:>13.2f}"
            f"{timing.first_seconds:>11.1f} s{note}",
            flush=True,
        )
    memory = peak_memory()
    print("peak memory           " + ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in memory.items()))
    if json_file is not None:
        report = about | {"stages": [timing.described() for timing in timings], "peak_memory_bytes": memory}
        json_file.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def run_scaling(repetitions: int, json_file: pathlib.Path | None) -> None:
    """Prints a line for each number of processors; the file comes last. Raises as `run` and `scaling.run`."""
    from ahs_seg_jax.cli import scaling

    if json_file is not None:
        _check_writable(json_file)
    scaling.run(repetitions, json_file)


def _check_writable(path: pathlib.Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise OSError(f"{path} cannot be written; name a file in a folder that exists with --json")


def _about(model: str, class_count: int, size: tuple[int, int], repetitions: int) -> dict[str, Any]:
    import jax

    from ahs_seg_jax.versions import versions

    devices = ", ".join(sorted({f"{device.platform} {device.device_kind}" for device in jax.devices()}))
    hardware = f"{devices}, {threads.cores()} processors, {platform.machine()}"
    settings = {"model": model, "classes": class_count, "height": size[0], "width": size[1], "repetitions": repetitions}
    return {"settings": settings, "hardware": hardware, "system": platform.platform(), "versions": versions()}
