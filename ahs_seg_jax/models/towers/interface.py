"""What the rest of the program knows of a tower: how it is called, and a table of its parameters.

Nothing outside a tower's file names its parameters. Whether there is a class token, how it is pooled, and what happens
after the last block are the tower's own affair: only tokens of the feature grid leave an image tower.

Axes: b image, m prompt, l q text token, h w feature grid, d tower width, e joint embedding, s layer.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
from jaxtyping import Array, Float, Int

from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers.config import ImageTowerConfig, TextTowerConfig

SLOTS = ("query", "key", "value", "out")  # the four matrices of a layer that rotations act on, in this order


class ImageTower(Protocol):
    """A Flax module that makes dense features of normalised images of the crop's size.

    With a method `pooled`, from such images to one embedding each `[b, e]`, `CLIP` takes it too.
    """

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The matrices of SLOTS, name -> `[s, d, d]`. Called only if the tower's `rotated` names them."""

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Dense features, and the outputs of the blocks `taps` (0-based) on the grid.

        `kernels`, as `attention_kernels` returns them, take the place of the tower's own.
        """


class TextTower(Protocol):
    """A Flax module that makes embeddings of token ids."""

    def attention_kernels(self) -> dict[str, jax.Array]:
        """As of an image tower."""

    def __call__(
        self, tokens: Int[Array, "m l"], kernels: Params | None = None, prefix: Int[Array, "q"] | None = None
    ) -> Float[Array, "m e"]:
        """Embeddings in float32, not yet normalised, of token ids that are 0 after the prompt's end.

        `prefix` stands before every prompt and is not in `tokens`. A causal tower computes it once; any other tower
        puts it in front of each prompt.
        """


class Parameter(NamedTuple):
    """What training and sharding must know of a tower's parameters whose name within the tower matches `pattern`."""

    pattern: str  # a regular expression of the whole name, for example "blocks/(query|value)/kernel"
    group: str  # which `train.finetune` modes it learns in: "attention", "image_biases", "blocks", "clip" (all else)
    split_from: int | None = 0  # the first axis that may be split over devices; None: a whole copy on each
    decays: bool = True  # whether weight decay acts on it; on norms it never does


Config = TypeVar("Config", ImageTowerConfig, TextTowerConfig)
Module = TypeVar("Module", ImageTower, TextTower)


@dataclasses.dataclass(frozen=True)
class Tower(Generic[Config, Module]):
    """One tower: how it is made, and its parameters. The first of `parameters` that matches a name counts."""

    make: Callable[[Config, int, Any, str], Module]  # (config, embed_dim, dtype, remat)
    parameters: tuple[Parameter, ...]
    rotated: Mapping[str, str] = dataclasses.field(default_factory=dict)  # slot -> its kernel; empty: cannot be rotated
    embeds_width: bool = False  # whether its features have the tower's own width, so that `embed_dim` must be equal
    squashes: bool = False  # whether whole images were squashed to the square in its training, not cut to it
    gated: bool = False  # whether its MLPs are gated, so that its activation is another than the text tower's
    head_multiple: int = 1  # what the channels of a head must be a multiple of

    def parameter(self, name: str) -> Parameter | None:
        """The row of a parameter by its name within the tower; None if the tower has no such parameter."""
        return next((row for row in self.parameters if re.fullmatch(row.pattern, name)), None)
