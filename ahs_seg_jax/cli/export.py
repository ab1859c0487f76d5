"""`ahs-seg export`: the model as programs that need nothing of this one."""

import pathlib
from typing import Annotated, Literal

import typer

from ahs_seg_jax.cli import options


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"tiny, {options.CHECKPOINTS}")],
    output: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="A new folder.")],
    classes: Annotated[str, typer.Option(help="Bake these names in: 'cat; sofa, couch'.")] = "",
    classes_file: Annotated[pathlib.Path | None, typer.Option(help="Bake the names of this file in.")] = None,
    method: options.Method = "model",
    activation: options.Activation = None,
    file_format: Annotated[
        Literal["stablehlo", "onnx"], typer.Option("--format", help="Of the programs; onnx holds the weights inside.")
    ] = "stablehlo",
) -> None:
    """Writes the model as StableHLO, or as ONNX.

    With weights, manifest and a loader that needs nothing of this program.
    """
    names = options.names(classes, classes_file) if classes or classes_file else None
    options.finish(lambda: run(model, output, names, file_format, options.method_or_none(method), activation))


def run(
    model: str,
    output: pathlib.Path,
    names: tuple[str, ...] | None,
    file_format: Literal["stablehlo", "onnx"],
    method: str | None = None,
    activation: str | None = None,
) -> None:
    """See `ahs_seg_jax.export.export.export`, which says what it raises."""
    from ahs_seg_jax.export import export as exporting

    exporting.export(model, output, names, file_format, method, activation)
