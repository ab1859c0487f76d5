"""`ahs-seg models`: the model zoo, and what of it lies on this machine."""

import importlib.resources
import json
from typing import Annotated, Any

import typer

from ahs_seg_jax.cli import options


def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A model: all that is known of it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lists the models that a name is enough for.

    Any of these names will do where a command or a configuration takes a model, and `owner/name` of the Hugging Face
    hub. Weights are downloaded at the first use, into the hub's cache (environment variable HF_HUB_CACHE).
    """
    options.finish(lambda: run(name, as_json))


def run(name: str, as_json: bool) -> None:
    """Prints the table, or one model. Raises ValueError for a name that is not in it."""
    from ahs_seg_jax.checkpoints.hub import download
    from ahs_seg_jax.checkpoints.zoo import listing, table

    entries = table.table()
    if name and name not in entries:
        near = ", ".join(table.nearest(name, entries)) or "none is similar"
        raise ValueError(f"the model zoo has no {name} ({near}); without a name, all are listed")
    rows = [listing.describe(entry) for entry in ([entries[name]] if name else entries.values())]
    if as_json:
        print(json.dumps(rows[0] if name else rows, indent=1, ensure_ascii=False))
    elif name:
        for key, value in rows[0].items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            absent = "not downloaded" if key == "path" else "unknown"
            print(f"{key:11} {absent if value in ('', 0, None) else shown}")
    else:
        _print_table(rows)
        folder = download.cache_folder()
        print(
            f"\nDownloaded at the first use, into {folder}. `ahs-seg models NAME` says more of one, with its citation."
        )


def _print_table(rows: list[dict[str, Any]]) -> None:
    from ahs_seg_jax import checkpoints
    from ahs_seg_jax.checkpoints.hub.download import size_text

    packaged = importlib.resources.files(checkpoints).joinpath("tiny.safetensors").read_bytes()
    what = "the package's own small model: drawn scenes only"
    cells = [("name", "size", "here", "licence", "what"), ("tiny", size_text(len(packaged)), "yes", "Apache-2.0", what)]
    for row in rows:
        size = size_text(row["bytes"]) if row["bytes"] else "unknown"
        licence = row["licence"].partition(" (")[0]
        cells.append((row["name"], size, "yes" if row["path"] else "no", licence, row["title"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
