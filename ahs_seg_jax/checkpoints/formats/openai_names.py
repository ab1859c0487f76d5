"""CLIP's towers as OpenAI names their tensors; other programs took these names over."""

from collections.abc import Iterator
from typing import TypeAlias

from ahs_seg_jax.checkpoints.formats.entry import Entry, linear, norm
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig

TowerConfig: TypeAlias = ImageTowerConfig | TextTowerConfig


def towers(prefix: str, config: ModelConfig, fused: bool) -> Iterator[Entry]:
    """Both towers. `fused`: one in_proj_weight; otherwise q, k, v apart (CAT-Seg)."""
    image, e = config.image, config.embed_dim
    tokens = 1 + image.pretrained_grid**2
    visual, patch = f"{prefix}visual.", (image.width, 3, image.patch_size, image.patch_size)
    yield Entry(f"{prefix}logit_scale", "clip/logit_scale", ())
    yield Entry(f"{visual}class_embedding", "clip/image/class_embedding", (image.width,))
    yield Entry(f"{visual}positional_embedding", "clip/image/position_embedding", (tokens, image.width))
    yield Entry(f"{visual}conv1.weight", "clip/image/patch_embedding/kernel", patch, "conv")
    yield Entry(f"{visual}proj", "clip/image/projection/kernel", (image.width, e))
    yield from norm(f"{visual}ln_pre", "clip/image/ln_pre", image.width)
    yield from norm(f"{visual}ln_post", "clip/image/ln_post", image.width)
    for layer in range(image.layers):
        yield from _block(f"{visual}transformer.resblocks.{layer}.", "image", image, layer, fused)
    yield from text(prefix, config, fused)


def text(prefix: str, config: ModelConfig, fused: bool) -> Iterator[Entry]:
    """The text tower alone, without the temperature."""
    text, e = config.text, config.embed_dim
    yield Entry(f"{prefix}token_embedding.weight", "clip/text/token_embedding", (text.vocab_size, text.width))
    yield Entry(f"{prefix}positional_embedding", "clip/text/position_embedding", (text.context, text.width))
    yield Entry(f"{prefix}text_projection", "clip/text/projection/kernel", (text.width, e))
    yield from norm(f"{prefix}ln_final", "clip/text/ln_final", text.width)
    for layer in range(text.layers):
        yield from _block(f"{prefix}transformer.resblocks.{layer}.", "text", text, layer, fused)


def _block(source: str, tower: str, sizes: TowerConfig, layer: int, fused: bool) -> Iterator[Entry]:
    target, width, inner = f"clip/{tower}/blocks/", sizes.width, sizes.inner_width
    for i, name in enumerate(("query", "key", "value")):
        if fused:
            yield Entry(
                f"{source}attn.in_proj_weight", f"{target}{name}/kernel", (3 * width, width), "linear", layer, (i, 3)
            )
        else:
            weight = f"{source}attn.{name[0]}_proj_weight"
            yield Entry(weight, f"{target}{name}/kernel", (width, width), "linear", layer)
        yield Entry(f"{source}attn.in_proj_bias", f"{target}{name}/bias", (3 * width,), layer=layer, part=(i, 3))
    yield from linear(f"{source}attn.out_proj", f"{target}out", width, width, layer)
    yield from norm(f"{source}ln_1", f"{target}ln_1", width, layer)
    yield from norm(f"{source}ln_2", f"{target}ln_2", width, layer)
    yield from linear(f"{source}mlp.c_fc", f"{target}mlp_in", width, inner, layer)
    yield from linear(f"{source}mlp.c_proj", f"{target}mlp_out", inner, width, layer)
