"""What open_clip's files have in common whose image tower is timm's: names of tensors, and of towers.

open_clip calls such a tower `visual.trunk` and puts the text tower, which is CLIP's, behind `text`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ahs_seg_jax.checkpoints.formats import openai_names
from ahs_seg_jax.checkpoints.formats.by_shapes import Place, Places
from ahs_seg_jax.checkpoints.formats.entry import Entry
from ahs_seg_jax.models.architecture import ModelConfig

TRUNK = "visual.trunk."
TEXTS = "text."


class Timm(NamedTuple):
    """How open_clip's configuration states an image tower."""

    names: tuple[str, ...]  # what timm's names of such towers begin with
    pool: str

    def states(self, name: str, pool: str) -> bool:
        """Whether this tower is meant."""
        return name.startswith(self.names) and pool == self.pool


def texts(config: ModelConfig) -> Iterator[Entry]:
    """The text tower and the temperature."""
    yield Entry("logit_scale", "clip/logit_scale", ())
    yield from openai_names.text(TEXTS, config, fused=True)


def tokens(config: ModelConfig) -> Iterator[Entry]:
    """What stands before the blocks of the image tower, but for norms and biases."""
    image, target = config.image, "clip/image/"
    width, side = image.width, image.patch_size
    yield Entry(f"{TRUNK}cls_token", f"{target}class_embedding", (1, 1, width), "token")
    count = 1 + image.pretrained_grid**2
    yield Entry(f"{TRUNK}pos_embed", f"{target}position_embedding", (1, count, width), "first")
    yield Entry(f"{TRUNK}patch_embed.proj.weight", f"{target}patch_embedding/kernel", (width, 3, side, side), "conv")


def places(kind: str) -> Places:
    """Where the sizes stand."""
    return Places(
        kind=kind,
        width=Place(f"{TRUNK}cls_token", 2),
        patch=Place(f"{TRUNK}patch_embed.proj.weight", 3),
        tokens=Place(f"{TRUNK}pos_embed", 1),
        embed=Place(f"{TRUNK}head.weight", 0),
        blocks=f"{TRUNK}blocks.",
        texts=TEXTS,
    )
