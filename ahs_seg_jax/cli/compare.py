"""`ahs-seg compare`: the same images by several models or methods, or with several lists of words, side by side."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from ahs_seg_jax.cli import options
from ahs_seg_jax.storage import writing

MOST = 4  # pictures side by side
TITLE_NAMES = 3  # of a list of words, in a picture's title


class Shown(NamedTuple):
    """What makes a picture. A method of None is what suits the model, an activation of None what its file states."""

    model: str
    names: tuple[str, ...]
    method: str | None = None
    activation: str | None = None

    @property
    def loaded(self) -> tuple[str, str | None, str | None]:
        """What is loaded for it; pictures of the same share a Segmenter."""
        return self.model, self.method, self.activation


def compare(
    images: options.Images,
    classes: Annotated[
        list[str] | None, typer.Option(help="Names 'cat; sofa, couch'; give it again to compare.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="As of segment (tiny); give it again to compare.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="As of segment, such as naclip; give it again to compare.")
    ] = None,
    activation: Annotated[
        list[str] | None,
        typer.Option(help="gelu or quick_gelu, of a CLIP whose file does not state it; else model; several as above."),
    ] = None,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for the pictures.")] = pathlib.Path("compared"),
    protocol: options.Protocol = "model",
    memory_gb: options.MemoryGB = None,
) -> None:
    """Draws models, methods or lists of words side by side.

    Two to four for each image, and of two, where they differ. With several models and several lists or methods, the
    first model takes the first list and the first method, and so on.
    """
    given = model or ["tiny"], classes or [], method or ["model"], activation or ["model"]
    shown = options.mistakes(lambda: paired(*given))
    options.finish(lambda: run(images, shown, output, options.protocol_or_none(protocol), memory_gb))


def paired(
    models: Sequence[str],
    lists: Sequence[str],
    methods: Sequence[str] = ("model",),
    activations: Sequence[str] = ("model",),
) -> list[Shown]:
    """What makes each picture. Raises ValueError if there is nothing to compare, or no way to pair them."""
    counts = {len(models), len(lists), len(methods), len(activations)}
    count = max(counts)
    if not lists:
        raise ValueError("no words: give --classes 'cat; sofa, couch', once or once for each picture")
    if not 2 <= count <= MOST or counts - {1, count}:
        raise ValueError(
            f"there are {len(models)} --model, {len(lists)} --classes, {len(methods)} --method and {len(activations)} "
            f"--activation; give one of them two to {MOST} times, and each of the others once or as often"
        )
    several = lambda given: list(given) * count if len(given) == 1 else list(given)
    names = [options.split_names(text) for text in several(lists)]
    by, stated = map(options.method_or_none, several(methods)), map(options.activation_or_none, several(activations))
    return [Shown(*given) for given in zip(several(models), names, by, stated, strict=True)]


def titles(shown: Sequence[Shown]) -> list[str]:
    """What tells the pictures apart: the model, the method, the words, or several of them."""
    models, lists, methods, stated = ({each[place] for each in shown} for place in range(4))
    found = []
    for model, names, method, activation in shown:
        words = ", ".join(names[:TITLE_NAMES]) + (f" and {len(names) - TITLE_NAMES} more" * (len(names) > TITLE_NAMES))
        parts = (
            *((model, len(models) > 1), (method or "model", len(methods) > 1)),
            *((activation or "as stated", len(models) == 1 and len(stated) > 1), (words, len(lists) > 1)),
        )
        found.append(": ".join(part for part, told in parts if told))
    return found if any(found) else [each.model for each in shown]


def run(
    images: Sequence[str],
    shown: Sequence[Shown],
    output: pathlib.Path,
    protocol: str | None,
    memory_gb: float | None,
) -> int:
    """Writes a PNG for each image; returns 0, or 1 if an image failed. Raises what a user can mend before the first."""
    from PIL import Image

    from ahs_seg_jax.cli.image_jobs import find_images
    from ahs_seg_jax.pictures import legends
    from ahs_seg_jax.segmenter import Segmenter

    jobs = find_images(images)
    segmenters: dict[tuple[str, str | None, str | None], Segmenter] = {}
    own = {"memory_gb": memory_gb} | ({"protocol": protocol} if protocol else {})
    for each in shown:
        if each.loaded not in segmenters:
            segmenters[each.loaded] = Segmenter.from_pretrained(
                each.model, method=each.method, activation=each.activation, **own
            )
        found = segmenters[each.loaded]
        words, tower = found.as_vocabulary(each.names), found.config.text
        words.tokens(tower.context, tower.tokenizer)  # mistakes in the words, now
    options.make_folder(output)
    failed: list[str] = []
    taken: dict[pathlib.Path, pathlib.Path] = {}
    for number, job in enumerate(jobs, 1):
        try:
            results = [segmenters[each.loaded](job.path, each.names) for each in shown]
            parts = [(title, r.labels, r.names, r.colors) for title, r in zip(titles(shown), results, strict=True)]
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
