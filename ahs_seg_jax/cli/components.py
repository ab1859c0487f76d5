"""`ahs-seg components`: what HA-HEM, DC-HSP and MH-FPN have learnt, as pictures and numbers."""

import json
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ahs_seg_jax.cli import options

if TYPE_CHECKING:
    from ahs_seg_jax.checkpoints.manifest import Pretrained

HA_HEM, DC_HSP, MH_FPN, WAY, NUMBERS = "ha_hem.png", "dc_hsp.png", "mh_fpn.png", "way.png", "components.json"


def components(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.CHECKPOINTS.capitalize())],
    activation: options.Activation = None,
    classes: options.Classes = "",
    classes_file: options.ClassesFile = None,
    image: Annotated[str, typer.Option(help="An image, whose way through the model and pyramid are drawn too.")] = "",
    output: Annotated[pathlib.Path, typer.Option(help="Folder for pictures and numbers.")] = pathlib.Path("components"),
) -> None:
    """Draws what the model's components have learnt.

    The strength of each layer's rotation (HA-HEM) and the complexity of each name (DC-HSP), with the numbers; with an
    image, also its features at three depths (MH-FPN), and its way from features over correlations to labels. Without
    names, those of the model's training are taken.
    """
    names = options.names(classes, classes_file) if classes or classes_file else None
    options.finish(lambda: run(model, names, output, image, activation))


def run(
    model: str,
    names: tuple[str, ...] | None,
    output: pathlib.Path,
    image: str = "",
    activation: str | None = None,
) -> None:
    """Writes what the model has. Raises ValueError if it has neither component, or if there are no names for it."""
    from PIL import Image

    from ahs_seg_jax.checkpoints import pretrained
    from ahs_seg_jax.cli import strengths
    from ahs_seg_jax.pictures import charts

    loaded = pretrained.load_pretrained(model, activation=activation)
    missing = strengths.missing(loaded)
    if len(missing) == 2 and not image:
        raise ValueError("\n".join(missing))
    names = names or loaded.trained_names
    if not names and ("dc_hsp" in loaded.params or image):
        raise ValueError("the names of this model's training are not known: give --classes or --classes-file")
    pictures: dict[str, Any] = {}
    numbers: dict[str, Any] = {"model": model}
    if "dc_hsp" in loaded.params:
        found = strengths.complexities(loaded, names, loaded.templates)
        pictures[DC_HSP] = charts.sorted_bars(names, found, "DC-HSP: complexity of each class, 0 to 1")
        numbers["complexity"] = dict(zip(names, found.tolist(), strict=True))
    if loaded.config.adaptation == "ha_hem":
        towers = strengths.strengths(loaded)
        pictures[HA_HEM] = charts.layer_strengths([(tower.title, tower.alpha, tower.applied) for tower in towers])
        numbers |= {tower.tower: {"alpha": tower.alpha.tolist(), "beta": tower.beta} for tower in towers}
    if image:
        pictures |= _of_image(loaded, image, names, numbers)
    options.make_folder(output)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(output / name)
    (output / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{', '.join([*pictures, NUMBERS])} in {output}", file=sys.stderr)
    for reason in missing:
        print(f"left out: {reason}", file=sys.stderr)


def _of_image(loaded: "Pretrained", image: str, names: tuple[str, ...], numbers: dict[str, Any]) -> dict[str, Any]:
    """The pictures of one image; the pyramid's weights go into `numbers`."""
    from ahs_seg_jax.cli import strengths
    from ahs_seg_jax.pictures import features
    from ahs_seg_jax.segmenter import Segmenter, open_image
    from ahs_seg_jax.segmenter.methods import no_aggregator
    from ahs_seg_jax.segmenter.way import way

    if not loaded.is_complete:
        raise no_aggregator(str(numbers["model"]))
    pixels = open_image(image)
    pictures = {WAY: way(Segmenter(loaded.config, loaded.params, loaded.templates), pixels, names)}
    if loaded.config.mh_fpn:
        found = strengths.pyramid(loaded, pixels)
        pictures[MH_FPN] = features.table([[("image", pixels), *found.shown()]])
        if found.weights is not None:
            numbers["pyramid"] = {"blocks": list(found.blocks), "weights": found.weights.tolist()}
    return pictures
