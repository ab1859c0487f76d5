"""PE-Core as its two publishers name it: the tables of its tensors, and its sizes.

Source: facebook/PE-Core-B16-224 and -L14-336 (OpenAI's names and a pooling head), and the files of the same models of
timm/PE-Core-B-16 and -L-14-336 (open_clip's, with an image tower of timm).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats import by_shapes, openai_names, trunk
from ahs_seg_jax.checkpoints.formats.by_shapes import Place, Places
from ahs_seg_jax.checkpoints.formats.entry import Entry, linear, norm
from ahs_seg_jax.checkpoints.formats.stated import CLIP_TOKENIZER, Stated
from ahs_seg_jax.checkpoints.formats.trunk import TRUNK
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig
from ahs_seg_jax.models.layers import EPSILON

Shapes = Mapping[str, tuple[int, ...]]

OWN, OPEN_CLIP = "pe_core", "pe_core_open_clip"
PROBES = {OWN: "visual.attn_pool.probe", OPEN_CLIP: "visual.trunk.attn_pool.latent"}  # of the pooling head
TIMM = trunk.Timm(("vit_pe_core_",), "map")
STATED = Stated("gelu", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), EPSILON, CLIP_TOKENIZER)  # pixels go from -1 to 1
ZEROS = f"{TRUNK}head.bias"  # timm's projection has a bias, which the published model has not: it must be zero


def recognised(shapes: Shapes) -> bool:
    """Whether the names are those of the publisher's own files."""
    return PROBES[OWN] in shapes and "visual.class_embedding" in shapes


def recognised_of_open_clip(shapes: Shapes) -> bool:
    """Whether the names are those of open_clip's files; a SigLIP of timm has no class token."""
    names = PROBES[OPEN_CLIP], f"{TRUNK}cls_token", f"{TRUNK}norm_pre.weight"
    return all(name in shapes for name in names)


def entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """The table of the publisher's own file, which holds the two towers only."""
    yield from openai_names.towers(prefix, config, fused=True)
    yield from _pooling_head(f"{prefix}visual.attn_pool.", config.image)


def entries_of_open_clip(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """The table of open_clip's file."""
    for entry in (*trunk.texts(config), *_trunk(config)):
        yield dataclasses.replace(entry, source=prefix + entry.source)


def _pooling_head(source: str, image: ImageTowerConfig) -> Iterator[Entry]:
    target, width = "clip/image/pool_", image.width
    yield Entry(f"{source}probe", f"{target}probe", (1, 1, width), "token")
    for i, name in enumerate(("query", "key", "value")):
        weight, bias = f"{source}attn.in_proj_weight", f"{source}attn.in_proj_bias"
        yield Entry(weight, f"{target}{name}/kernel", (3 * width, width), "linear", part=(i, 3))
        yield Entry(bias, f"{target}{name}/bias", (3 * width,), part=(i, 3))
    yield from linear(f"{source}attn.out_proj", f"{target}out", width, width)
    yield from norm(f"{source}layernorm", f"{target}norm", width)
    yield from linear(f"{source}mlp.c_fc", f"{target}mlp_in", width, image.inner_width)
    yield from linear(f"{source}mlp.c_proj", f"{target}mlp_out", image.inner_width, width)


def _trunk(config: ModelConfig) -> Iterator[Entry]:
    """The image tower as timm names it."""
    image, target = config.image, "clip/image/"
    width = image.width
    yield from trunk.tokens(config)
    yield from norm(f"{TRUNK}norm_pre", f"{target}ln_pre", width)
    yield from norm(f"{TRUNK}norm", f"{target}ln_post", width)
    yield Entry(f"{TRUNK}head.weight", f"{target}projection/kernel", (config.embed_dim, width), "linear")
    for layer in range(image.layers):
        source, block = f"{TRUNK}blocks.{layer}.", f"{target}blocks/"
        for i, name in enumerate(("query", "key", "value")):
            weight, bias = f"{source}attn.qkv.weight", f"{source}attn.qkv.bias"
            yield Entry(weight, f"{block}{name}/kernel", (3 * width, width), "linear", layer, (i, 3))
            yield Entry(bias, f"{block}{name}/bias", (3 * width,), layer=layer, part=(i, 3))
        yield from linear(f"{source}attn.proj", f"{block}out", width, width, layer)
        yield from norm(f"{source}norm1", f"{block}ln_1", width, layer)
        yield from norm(f"{source}norm2", f"{block}ln_2", width, layer)
        yield from linear(f"{source}mlp.fc1", f"{block}mlp_in", width, image.inner_width, layer)
        yield from linear(f"{source}mlp.fc2", f"{block}mlp_out", image.inner_width, width, layer)
    source, head = f"{TRUNK}attn_pool.", f"{target}pool_"
    yield Entry(f"{source}latent", f"{head}probe", (1, 1, width), "token")
    yield from linear(f"{source}q", f"{head}query", width, width)
    for i, name in enumerate(("key", "value")):
        yield Entry(f"{source}kv.weight", f"{head}{name}/kernel", (2 * width, width), "linear", part=(i, 2))
        yield Entry(f"{source}kv.bias", f"{head}{name}/bias", (2 * width,), part=(i, 2))
    yield from linear(f"{source}proj", f"{head}out", width, width)
    yield from norm(f"{source}norm", f"{head}norm", width)
    yield from linear(f"{source}mlp.fc1", f"{head}mlp_in", width, image.inner_width)
    yield from linear(f"{source}mlp.fc2", f"{head}mlp_out", image.inner_width, width)


_OWN_PLACES = Places(
    kind="a PE-Core",
    width=Place("visual.class_embedding", 0),
    patch=Place("visual.conv1.weight", 3),
    tokens=Place("visual.positional_embedding", 0),
    embed=Place("visual.proj", 1),
    blocks="visual.transformer.resblocks.",
)
_IMAGE = ImageTowerConfig(tower="pe")


def model_config(
    shapes: Shapes, about: Mapping[str, Any] | None, where: str, expected: ModelConfig | None = None
) -> ModelConfig:
    """The sizes of the publisher's own file, as `by_shapes` finds them. `STATED` is not in it."""
    return by_shapes.model_config(_OWN_PLACES, _IMAGE, shapes, where, expected)


def model_config_of_open_clip(
    shapes: Shapes, about: Mapping[str, Any] | None, where: str, expected: ModelConfig | None = None
) -> ModelConfig:
    """As `model_config`, of open_clip's file."""
    return by_shapes.model_config(trunk.places("a PE-Core"), _IMAGE, shapes, where, expected)
