"""EVA-02-CLIP as open_clip's files name it, with an image tower of timm: the table of its tensors, and its sizes.

Source: timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k and timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats import by_shapes, trunk
from ahs_seg_jax.checkpoints.formats.by_shapes import Place
from ahs_seg_jax.checkpoints.formats.entry import Entry, linear, norm
from ahs_seg_jax.checkpoints.formats.stated import CLIP_TOKENIZER, OPENAI_MEAN, OPENAI_STD, Stated
from ahs_seg_jax.checkpoints.formats.trunk import TRUNK
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig
from ahs_seg_jax.models.layers import EPSILON
from ahs_seg_jax.models.towers.config import mlp_width

Shapes = Mapping[str, tuple[int, ...]]

NAME = "eva02_open_clip"
GATE = f"{TRUNK}blocks.0.mlp.fc1_g.weight"
INNER_NORM = f"{TRUNK}blocks.0.attn.norm.weight"
# The largest, "enormous", has other blocks.
TIMM = trunk.Timm(("eva02_base_patch16_clip_", "eva02_large_patch14_clip_"), "token")
KIND = "an EVA-02-CLIP"
# Activation and epsilon are the text tower's; the image tower has SiLU and 1e-6.
STATED = Stated("gelu", OPENAI_MEAN, OPENAI_STD, EPSILON, CLIP_TOKENIZER)


def recognised(shapes: Shapes) -> bool:
    """Whether the names are those of open_clip's files."""
    return GATE in shapes and INNER_NORM in shapes and f"{TRUNK}cls_token" in shapes


def entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """The table of open_clip's file, which holds the two towers only; `prefix` stands before every name."""
    for entry in (*trunk.texts(config), *_image(config)):
        yield dataclasses.replace(entry, source=prefix + entry.source)


def _image(config: ModelConfig) -> Iterator[Entry]:
    image, target = config.image, "clip/image/"
    width = image.width
    yield from trunk.tokens(config)
    yield Entry(f"{TRUNK}patch_embed.proj.bias", f"{target}patch_embedding/bias", (width,))
    yield from norm(f"{TRUNK}norm", f"{target}ln_post", width)
    yield from linear(f"{TRUNK}head", f"{target}projection", width, config.embed_dim)
    for layer in range(image.layers):
        yield from _block(f"{TRUNK}blocks.{layer}.", f"{target}blocks/", image, layer)


def _block(source: str, target: str, image: ImageTowerConfig, layer: int) -> Iterator[Entry]:
    width, inner = image.width, image.inner_width
    for theirs, ours in (("q_proj", "query"), ("v_proj", "value"), ("proj", "out")):
        yield from linear(f"{source}attn.{theirs}", f"{target}{ours}", width, width, layer)
    yield Entry(f"{source}attn.k_proj.weight", f"{target}key/kernel", (width, width), "linear", layer)
    for theirs, ours, channels in (
        ("norm1", "ln_1", width),
        ("attn.norm", "ln_attention", width),
        ("norm2", "ln_2", width),
        ("mlp.norm", "ln_mlp", inner),
    ):
        yield from norm(source + theirs, target + ours, channels, layer)
    yield from linear(f"{source}mlp.fc1_g", f"{target}mlp_gate", width, inner, layer)
    yield from linear(f"{source}mlp.fc1_x", f"{target}mlp_in", width, inner, layer)
    yield from linear(f"{source}mlp.fc2", f"{target}mlp_out", inner, width, layer)


def model_config(
    shapes: Shapes, about: Mapping[str, Any] | None, where: str, expected: ModelConfig | None = None
) -> ModelConfig:
    """The model's sizes, as `by_shapes` finds them. `STATED` is not in it.

    Raises:
      CheckpointError: a tensor that shows a size is missing, or no whole number of heads fits.
    """
    image = ImageTowerConfig(tower="eva", activation="silu")
    found = by_shapes.model_config(trunk.places(KIND), image, shapes, where, expected)
    inner = by_shapes.size(KIND, shapes, Place(GATE, 0), where)
    return found.replace(image=dataclasses.replace(found.image, mlp_width=mlp_width(inner, found.image.width)))
