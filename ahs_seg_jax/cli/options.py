"""What the commands share: options that are named and explained once, class names as text, exit codes.

Exit codes: 0 done; 1 done, but something in it failed (named on stderr); 2 a mistake to mend, nothing was done.
"""

import errno
import math
import os
import pathlib
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import typer


def finite(value: float | None) -> float | None:
    """An option's number. Raises BadParameter for NaN, which no comparison with a bound notices, and infinity."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Images: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="IMAGES...", help="Files, folders, or patterns such as '*.jpg'.")
]
CHECKPOINTS = "a name of `ahs-seg models`, a workdir, a converted folder, a checkpoint file or a hub name."
Model: TypeAlias = Annotated[str, typer.Option(help=f"tiny, {CHECKPOINTS}")]
Benchmarks: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Benchmarks, such as voc_20; another name lists them all.")
]
Classes: TypeAlias = Annotated[str, typer.Option(help="Names separated by ';', synonyms by ',': 'cat; sofa, couch'.")]
ClassesFile: TypeAlias = Annotated[pathlib.Path | None, typer.Option(help="A text file with one name a line.")]
Protocol: TypeAlias = Annotated[
    Literal["model", "cat_seg", "whole", "slide"],
    typer.Option(help="The model's own; cat_seg: windows and a global view; whole: one view; slide: training-free."),
]
Method: TypeAlias = Annotated[
    str,
    typer.Option(
        help="model: what it was trained for, or naclip for a plain CLIP; aggregator; or training-free: naclip, "
        "sc_clip, pearl, clearclip, sclip, maskclip, maskclip_residual, clip."
    ),
]
Activation: TypeAlias = Annotated[
    Literal["gelu", "quick_gelu"] | None, typer.Option(help="Of a CLIP, where its file does not state it.")
]
Host: TypeAlias = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets the network in.")]
AllowedHost: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Another name under which it may be reached; give it again for more.")
]
MaxUploadMB: TypeAlias = Annotated[int, typer.Option(help="Largest file, in 2**20 bytes.", min=1)]
MaxMegapixels: TypeAlias = Annotated[
    float, typer.Option(help="Largest image, in 1e6 pixels.", min=0.01, callback=finite)
]
MaxClasses: TypeAlias = Annotated[int, typer.Option(help="Most names at once.", min=1)]
MaxSeconds: TypeAlias = Annotated[
    float, typer.Option(help="Longest time from an upload to its answer.", min=0.1, callback=finite)
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="AHS_SEG_API_KEY", help="Who asks must send it; better by the environment than here."),
]
Port: TypeAlias = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
MemoryGB: TypeAlias = Annotated[float | None, typer.Option(help="Bound of the memory, in 1e9 bytes.", callback=finite)]

EVERYWHERE = ("0.0.0.0", "::")  # addresses that let the network in


def names(classes: str, classes_file: pathlib.Path | None) -> tuple[str, ...]:
    """The class names of `--classes` or `--classes-file`, one of which must be given."""
    if bool(classes) == (classes_file is not None):
        raise typer.BadParameter("give the names once: --classes 'cat; sofa, couch', or --classes-file names.txt")
    if classes_file is not None:
        from ahs_seg_jax.vocabulary import Vocabulary, plain_name

        return mistakes(lambda: tuple(map(plain_name, Vocabulary.from_file(classes_file).names)))
    return split_names(classes)


def given(context: typer.Context, *besides: str) -> str:
    """The options on the command line, as `'--model, --again'`, without those of the parameters `besides`."""
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    sources = {name: context.get_parameter_source(name) for name in names if name not in besides}
    return ", ".join(names[name] for name, source in sources.items() if source and source.name == "COMMANDLINE")


def protocol_or_none(text: str) -> str | None:
    """None stands for the model's own."""
    return None if text == "model" else text


def method_or_none(text: str) -> str | None:
    """None stands for what suits the model."""
    return None if text == "model" else text


def activation_or_none(text: str) -> str | None:
    """None stands for what the model's file states. Raises ValueError for what is no activation of a CLIP."""
    if text not in ("model", "gelu", "quick_gelu"):
        raise ValueError(f"--activation is {text!r}; choose one of model (as its file states), gelu, quick_gelu")
    return None if text == "model" else text


def split_names(text: str) -> tuple[str, ...]:
    """`' cat .; sofa,  couch ;'` -> `('cat', 'sofa, couch')`."""
    from ahs_seg_jax.vocabulary import plain_name

    return tuple(plain_name(", ".join(name.split(","))) for name in text.strip(" ;").split(";"))


def check_address(host: str, port: int) -> None:
    """Raises OSError where a server could not listen, before a model is loaded."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port} ({error}); choose another --port or --host") from error


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder for results. Raises OSError that says what to do if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(f"results cannot be written to {path} ({error}); choose another --output") from error


def finish(command: Callable[[], int | None]) -> None:
    """Runs it and leaves with its exit code."""
    raise typer.Exit(mistakes(command) or 0)


def cause(error: Exception) -> str:
    """Why one image of several failed, in one line. Errors that nobody foresaw are named with their kind."""
    from ahs_seg_jax.errors import CheckpointError

    lines = [line.strip(" -") for line in str(error).strip().splitlines()] or [""]
    text = " ".join(lines[: 1 + lines[0].endswith(":")])  # a heading comes with the first line below it
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"there is not enough memory ({text or type(error).__name__}); give a lower --memory-gb, which takes "
            "smaller parts at once, or a smaller image"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"its results cannot be written ({error}); make room, and start the same command again"
    foreseen = isinstance(error, ValueError | TypeError | OSError | ImportError | CheckpointError)
    return text if foreseen and text else f"{type(error).__name__}: {text}".rstrip(": ")


def mistakes(command: Callable[[], Any]) -> Any:
    """A mistake of the user's ends in one message and exit code 2."""
    from ahs_seg_jax.errors import CheckpointError, told

    try:
        return command()
    except (CheckpointError, ValueError, TypeError, ImportError, OSError) as error:
        if os.environ.get("AHS_SEG_TRACEBACK", "").lower() not in ("", "0", "false", "no", "off"):
            raise
        print(told(error), file=sys.stderr)
        raise typer.Exit(2) from error
