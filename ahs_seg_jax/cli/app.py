"""The commands and their options. Nothing heavy is imported before a command runs, so that --help answers at once."""

import os
import pathlib
from typing import Annotated, Any, Literal

import typer

from ahs_seg_jax import __version__
from ahs_seg_jax.cli import benchmark, compare, compilation_cache, components, demo, options
from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages

EPILOG = f"""Compiled programs are kept in a folder of the user's cache, so that only the first run of a kind compiles
(environment variable {compilation_cache.VARIABLE}: another folder, or "off")."""
FLAGS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
PASSES_ON: dict[str, Any] = FLAGS | {"help_option_names": []}

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


@app.command()
def segment(
    images: options.Images,
    classes: options.Classes = "",
    classes_file: options.ClassesFile = None,
    model: options.Model = "tiny",
    output: Annotated[pathlib.Path, typer.Option(help="Folder for the results.")] = pathlib.Path("segmented"),
    protocol: options.Protocol = "model",
    unknown: Annotated[
        str, typer.Option(help="none, a probability such as 0.3, or background words 'wall; sky'.")
    ] = "none",
    windows: Annotated[
        str, typer.Option(help="native: windows over each image at its own resolution, in place of a protocol.")
    ] = "",
    window: Annotated[int | None, typer.Option(help="Their side in pixels; the model's own by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels from window to window.")] = None,
    overlap: Annotated[float | None, typer.Option(help="In place of a stride: a share, by default 0.33.")] = None,
    blend: Annotated[str, typer.Option(help="Weights where they overlap: smooth, mean.")] = "smooth",
    global_view: Annotated[bool, typer.Option("--global-view", help="Mean with one view of the whole image.")] = False,
    keep: Annotated[str, typer.Option(help="Classes that each view keeps: model, all, or a number.")] = "model",
    memory_gb: options.MemoryGB = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would run and the memory it takes.")] = False,
    overlays: Annotated[bool, typer.Option(help="Write pictures with legends.")] = True,
    coco: Annotated[bool, typer.Option("--coco", help="Write COCO annotations with RLE masks too.")] = False,
    heat_maps: Annotated[bool, typer.Option("--heat-maps", help="Write a picture of each name's probability.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a folder with other results.")] = False,
) -> None:
    """Segments images; writes index PNGs, overlays and a summary. Run again, it continues where it stopped.

    With --windows native a TIFF may be larger than memory; its labels are a GeoTIFF with the same georeferencing.
    """
    from ahs_seg_jax.cli.segment import Settings, parse_keep, parse_unknown, parse_windows, run

    names = options.names(classes, classes_file)
    settings = options.mistakes(
        lambda: Settings(
            classes=names,
            model=model,
            protocol=options.protocol_or_none(protocol),
            windows=parse_windows(
                windows, window=window, stride=stride, overlap=overlap, blend=blend, global_view=global_view
            ),
            unknown=parse_unknown(unknown),
            keep=parse_keep(keep),
            memory_gb=memory_gb,
        )
    )
    options.finish(
        lambda: run(
            images, output, settings, only_plan=plan, overlays=overlays, coco=coco, heat_maps=heat_maps, again=overwrite
        )
    )


@app.command(context_settings=FLAGS)
def train(context: typer.Context) -> None:
    """Trains: --config=FILE --workdir=FOLDER.

    --config=configs/tiny.py or another configuration, :smoke behind it for a trial; --config.train.batch_size=8 sets any
    of its fields (ahs_seg_jax/config/experiment.py lists them). The same command continues a stopped run.
    """
    _main("train", context.args)


@app.command(context_settings=FLAGS)
def evaluate(context: typer.Context) -> None:
    """Scores a model: --config=FILE --workdir=FOLDER.

    The flags are those of train; --config.eval.benchmarks and the other fields of --config.eval choose what is scored.
    """
    _main("eval", context.args)


def _main(mode: str, arguments: list[str]) -> None:
    from ahs_seg_jax import main

    main.program(["ahs-seg", f"--mode={mode}", *arguments])


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint file, folder, workdir or hub name.")],
    destination: Annotated[pathlib.Path, typer.Argument(metavar="DST", help="A new folder or file.")],
    to: Annotated[
        Literal["orbax", "ahs_seg", "catseg", "openai_clip", "hf_clip"],
        typer.Option(help="Format of DST: orbax, for this program, or another program's."),
    ] = "orbax",
    merge: Annotated[bool, typer.Option("--merge", help="Fold the rotations into the weights.")] = False,
) -> None:
    """Converts checkpoints of CLIP, CAT-Seg, AHS-Seg.

    To this program's format, and back.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it needs no accelerator, and must not take one
    from ahs_seg_jax.cli.convert import convert

    options.finish(lambda: convert(source, destination, to, merge))


@app.command(context_settings=PASSES_ON)
def prepare(context: typer.Context) -> None:
    """Prepares benchmarks from their downloads."""
    from ahs_seg_jax.cli.prepare import main

    options.finish(lambda: main(context.args))


@app.command()
def doctor() -> None:
    """Versions, devices, a self-test: for bug reports."""
    from ahs_seg_jax.cli.doctor import run

    options.finish(run)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tiny, a workdir, a converted folder, a checkpoint ...")
    ],
    output: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="A new folder.")],
    classes: Annotated[str, typer.Option(help="Bake these names in: 'cat; sofa, couch'.")] = "",
    classes_file: Annotated[pathlib.Path | None, typer.Option(help="Bake the names of this file in.")] = None,
    file_format: Annotated[
        Literal["stablehlo", "onnx"], typer.Option("--format", help="Of the programs; onnx holds the weights inside.")
    ] = "stablehlo",
) -> None:
    """Writes the model as StableHLO, or as ONNX.

    With weights, manifest and a loader that needs nothing of this program.
    """
    from ahs_seg_jax.export.export import export

    names = options.names(classes, classes_file) if classes or classes_file else None
    options.finish(lambda: export(model, output, names, file_format))


for command in (compare.compare, components.components, demo.demo, benchmark.benchmark):
    app.command()(command)


def run() -> None:
    """The console script."""
    restart_with_huge_pages()
    app()
