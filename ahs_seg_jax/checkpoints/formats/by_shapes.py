"""The sizes of a model by the shapes of its tensors: image towers with a class token, CLIP's text tower.

What no shape shows is as published: heads of 64 channels, a crop of 24 x 24 patches, taps after each third of a tower.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig

Shapes = Mapping[str, tuple[int, ...]]

HEAD_DIM = 64  # channels
GRID = 24  # tokens a side of the crop: that of CLIP's ViT-B/16 and ViT-L/14@336


class Place(NamedTuple):
    """Where a size stands: an axis of a tensor."""

    name: str
    axis: int


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the sizes stand in one layout. `kind` is what the model is called in messages."""

    kind: str
    width: Place
    patch: Place
    tokens: Place
    embed: Place
    blocks: str  # what the names of the image tower's blocks begin with
    texts: str = ""  # what the names of the text tower begin with


def size(kind: str, shapes: Shapes, place: Place, where: str) -> int:
    """One size. Raises CheckpointError if the tensor is missing."""
    shape = shapes.get(place.name, ())
    if len(shape) <= place.axis:
        raise CheckpointError(f"{where} looks like {kind}, but {place.name} is missing or has too few axes")
    return shape[place.axis]


def model_config(
    places: Places, image: ImageTowerConfig, shapes: Shapes, where: str, expected: ModelConfig | None
) -> ModelConfig:
    """The model's sizes. `image` has the tower's name and what shapes do not show; `expected`, the model that is to
    take the weights, gives the heads of a tower of other widths.

    Raises:
      CheckpointError: a tensor that shows a size is missing, or no whole number of heads fits.
    """

    def found(place: Place) -> int:
        return size(places.kind, shapes, place, where)

    width, patch, words = found(places.width), found(places.patch), places.texts
    text_width = found(Place(f"{words}ln_final.weight", 0))
    images, texts = (_count(shapes, start) for start in (places.blocks, f"{words}transformer.resblocks."))
    first, second = max(images // 3, 1) - 1, max(2 * images // 3, 2) - 1
    return ModelConfig(
        image=dataclasses.replace(
            image,
            layers=images,
            width=width,
            heads=_heads(places.kind, "image", width, expected, where),
            patch_size=patch,
            crop=GRID * patch,
            pretrained_grid=math.isqrt(max(found(places.tokens) - 1, 1)),
        ),
        text=TextTowerConfig(
            layers=texts,
            width=text_width,
            heads=_heads(places.kind, "text", text_width, expected, where),
            vocab_size=found(Place(f"{words}token_embedding.weight", 0)),
            context=found(Place(f"{words}positional_embedding", 0)),
        ),
        embed_dim=found(places.embed),
        adaptation="none",
        mh_fpn=False,
        dc_hsp=False,
        guidance_taps=(first, second),
        mh_fpn_taps=(first, second, images - 1),
    )


def _heads(kind: str, tower: str, width: int, expected: ModelConfig | None, where: str) -> int:
    if width % HEAD_DIM == 0:
        return width // HEAD_DIM
    if expected is None:
        raise CheckpointError(
            f"{where}: the {tower} tower is {width} wide, which is no multiple of {HEAD_DIM} channels a head as in "
            f"every published model of its kind, {kind}; give the configuration of the model"
        )
    return int(getattr(expected, tower).heads)


def _count(shapes: Shapes, prefix: str) -> int:
    numbers = (name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers if re.fullmatch("[0-9]{1,9}", number)), default=-1)
