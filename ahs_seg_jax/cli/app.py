"""The program `ahs-seg`: its commands, each of which has a file of its own with its options.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from ahs_seg_jax import __version__
from ahs_seg_jax.cli import (
    benchmark,
    compare,
    compilation_cache,
    components,
    convert,
    data_doctor,
    data_prepare,
    demo,
    doctor,
    evaluate,
    export,
    memory,
    models,
    parity,
    push,
    segment,
    serve,
    train,
)
from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages

EPILOG = f"""Compiled programs are kept in a folder of the user's cache, so that only the first run of a kind compiles
(environment variable {compilation_cache.VARIABLE}: another folder, or "off")."""

app = typer.Typer(
    name="ahs-seg",
    help="Open-vocabulary segmentation: your images, your words.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ahs_seg_jax {__version__}")
        raise typer.Exit


@app.callback()
def _before_every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    compilation_cache.use()


COMMANDS: tuple[Callable[..., None], ...] = (
    segment.segment,
    compare.compare,
    components.components,
    demo.demo,
    serve.serve,
    benchmark.benchmark,
    models.models,
    convert.convert,
    push.push,
    export.export,
    parity.parity,
    doctor.doctor,
)
# These take any --config.FIELD=VALUE.
WITH_FLAGS: tuple[Callable[..., None], ...] = (train.train, evaluate.evaluate, memory.memory)
OF_DATA: tuple[Callable[..., None], ...] = (data_prepare.prepare, data_doctor.doctor)

for command in COMMANDS:
    app.command()(command)
for command in WITH_FLAGS:
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(command)
data = typer.Typer(name="data", help="Prepares and examines benchmarks.", no_args_is_help=True, rich_markup_mode=None)
for command in OF_DATA:
    data.command()(command)
app.add_typer(data)


def run() -> None:
    """The console script."""
    restart_with_huge_pages()
    app()
