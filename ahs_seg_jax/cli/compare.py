"""`ahs-seg compare`: the same images by several models, or with several lists of words, side by side."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ahs_seg_jax.cli import options
from ahs_seg_jax.storage import writing

MOST = 4  # pictures side by side
TITLE_NAMES = 3  # of a list of words, in a picture's title


def compare(
    images: options.Images,
    classes: Annotated[
        list[str] | None, typer.Option(help="Names 'cat; sofa, couch'; give it again to compare.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="As of segment (tiny); give it again to compare.")] = None,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for the pictures.")] = pathlib.Path("compared"),
    protocol: options.Protocol = "model",
    memory_gb: options.MemoryGB = None,
) -> None:
    """Draws models or lists of words side by side.

    Two to four for each image, and of two, where they differ. With several models and several lists, the first model
    takes the first list, and so on.
    """
    pairs = options.mistakes(lambda: paired(model or ["tiny"], classes or []))
    options.finish(lambda: run(images, pairs, output, options.protocol_or_none(protocol), memory_gb))


def paired(models: Sequence[str], lists: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(model, names) of each picture. Raises ValueError if there is nothing to compare, or no way to pair them."""
    count = max(len(models), len(lists))
    if not lists:
        raise ValueError("no words: give --classes 'cat; sofa, couch', once or once for each picture")
    if not 2 <= count <= MOST or {len(models), len(lists)} - {1, count}:
        raise ValueError(
            f"there are {len(models)} --model and {len(lists)} --classes; give one of them two to {MOST} times, and "
            "the other once or as often"
        )
    several = lambda given: list(given) * count if len(given) == 1 else list(given)
    names = [options.split_names(text) for text in several(lists)]
    return list(zip(several(models), names, strict=True))


def titles(pairs: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """What tells the pictures apart: the model, the words, or both."""
    models, lists = ({pair[place] for pair in pairs} for place in (0, 1))
    found = []
    for model, names in pairs:
        words = ", ".join(names[:TITLE_NAMES]) + (f" and {len(names) - TITLE_NAMES} more" * (len(names) > TITLE_NAMES))
        found.append(": ".join(part for part, told in ((model, len(models) > 1), (words, len(lists) > 1)) if told))
    return found if any(found) else [model for model, _ in pairs]


def run(
    images: Sequence[str],
    pairs: Sequence[tuple[str, tuple[str, ...]]],
    output: pathlib.Path,
    protocol: str | None,
    memory_gb: float | None,
) -> int:
    """Writes a PNG for each image; returns 0, or 1 if an image failed. Raises what a user can mend before the first."""
    from PIL import Image

    from ahs_seg_jax.cli.image_jobs import find_images
    from ahs_seg_jax.pictures import legends
    from ahs_seg_jax.segmenter import Segmenter
    from ahs_seg_jax.vocabulary import Vocabulary

    jobs = find_images(images)
    segmenters: dict[str, Segmenter] = {}
    for model, names in pairs:
        if model not in segmenters:
            segmenters[model] = Segmenter.from_pretrained(model, memory_gb=memory_gb)
        found = segmenters[model]
        Vocabulary(names, found.templates).tokens(
            found.config.text.context, found.config.text.tokenizer
        )  # mistakes in the words, now
    options.make_folder(output)
    failed: list[str] = []
    taken: dict[pathlib.Path, pathlib.Path] = {}
    for number, job in enumerate(jobs, 1):
        try:
            results = [segmenters[model](job.path, names, protocol=protocol) for model, names in pairs]
            parts = [(title, r.labels, r.names, r.colors) for title, r in zip(titles(pairs), results, strict=True)]
            target = output / f"{job.name}.png"
            if taken.setdefault(target, job.path) != job.path:
                raise ValueError(
                    f"its picture would have the same name as that of {taken[target]}; use another --output for it"
                )
            with writing.Staged() as staged:
                Image.fromarray(legends.comparison(results[0].image, parts)).save(staged(target))
            said = str(target)
        except Exception as error:  # whatever happens to one image, the others are compared; Ctrl-C still stops
            said = f"FAILED: {options.cause(error)}"
            failed.append(f"failed: {job.path}: {options.cause(error)}")
        print(f"[{number}/{len(jobs)}] {job.path}: {said}", file=sys.stderr)
    print("\n".join([f"{len(jobs) - len(failed)} of {len(jobs)} images in {output}", *failed]), file=sys.stderr)
    return 1 if failed else 0
