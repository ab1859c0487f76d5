"""`ahs-seg components`: what HA-HEM and DC-HSP have learnt, as pictures and numbers."""

import json
import pathlib
import sys
from typing import Annotated, Any

import typer

from ahs_seg_jax.cli import options

HA_HEM, DC_HSP, NUMBERS = "ha_hem.png", "dc_hsp.png", "components.json"


def components(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.CHECKPOINTS.capitalize())],
    classes: options.Classes = "",
    classes_file: options.ClassesFile = None,
    output: Annotated[pathlib.Path, typer.Option(help="Folder for pictures and numbers.")] = pathlib.Path("components"),
) -> None:
    """Draws what HA-HEM and DC-HSP have learnt.

    The strength of each layer's rotation and the complexity of each name, with the numbers. Without names, those of the
    model's training are taken.
    """
    names = options.names(classes, classes_file) if classes or classes_file else None
    options.finish(lambda: run(model, names, output))


def run(model: str, names: tuple[str, ...] | None, output: pathlib.Path) -> None:
    """Writes what the model has. Raises ValueError if it has neither component, or if DC-HSP has no names."""
    from PIL import Image

    from ahs_seg_jax.checkpoints import pretrained
    from ahs_seg_jax.cli import strengths
    from ahs_seg_jax.pictures import charts

    loaded = pretrained.load_pretrained(model)
    missing = strengths.missing(loaded)
    if len(missing) == 2:
        raise ValueError("\n".join(missing))
    pictures: dict[str, Any] = {}
    numbers: dict[str, Any] = {"model": model}
    if "dc_hsp" in loaded.params:
        names = names or loaded.trained_names
        if not names:
            raise ValueError("the names of this model's training are not known: give --classes or --classes-file")
        found = strengths.complexities(loaded, names, loaded.templates)
        pictures[DC_HSP] = charts.sorted_bars(names, found, "DC-HSP: complexity of each class, 0 to 1")
        numbers["complexity"] = dict(zip(names, found.tolist(), strict=True))
    if loaded.config.adaptation == "ha_hem":
        towers = strengths.strengths(loaded)
        pictures[HA_HEM] = charts.layer_strengths([(tower.title, tower.alpha, tower.applied) for tower in towers])
        numbers |= {tower.tower: {"alpha": tower.alpha.tolist(), "beta": tower.beta} for tower in towers}
    options.make_folder(output)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(output / name)
    (output / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{', '.join([*pictures, NUMBERS])} in {output}", file=sys.stderr)
    for reason in missing:
        print(f"left out: {reason}", file=sys.stderr)
