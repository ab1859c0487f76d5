"""Explicit tables: which tensor of which file is which parameter of ours.

A layout is a list of `Entry`, one for each tensor (or slice of a tensor) of the file. The same table serves both
directions, so a reader and its writer cannot drift apart. Shapes are those of the file.

Source: the published files of OpenAI CLIP, Hugging Face CLIP, CAT-Seg and AHS-Seg. HA-HEM, MH-FPN and DC-HSP exist in
no published file; they use the reference's module names where it has any.
"""

from collections.abc import Iterator
from typing import TypeAlias

from ahs_seg_jax.checkpoints.formats import openai_names
from ahs_seg_jax.checkpoints.formats.component_layouts import UNUSED, components
from ahs_seg_jax.checkpoints.formats.entry import Entry, conv, conv_transpose, linear, norm
from ahs_seg_jax.checkpoints.formats.others import OTHERS
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig

TowerConfig: TypeAlias = ImageTowerConfig | TextTowerConfig

LAYOUTS = ("ahs_seg", "catseg", "openai_clip", "hf_clip")  # read and written
_CLIPS, _WITH_METACLIP2 = (("clip", "clip"),), (("clip", "clip"), ("clip", "metaclip2"))
TOWERS = {  # the image and text towers that a layout has names for
    "ahs_seg": (*_WITH_METACLIP2, *(other.towers for other in OTHERS.values())),
    "catseg": _CLIPS,
    "openai_clip": _CLIPS,
    "hf_clip": _WITH_METACLIP2,
    **{name: (other.towers,) for name, other in OTHERS.items()},
}
CLIP_PREFIX = "sem_seg_head.predictor.clip_model."
PREDICTOR = "sem_seg_head.predictor.transformer."

# Buffers and unused parameters, recognised by the last part of their name or by their prefix; everything else counts.
_SEG_BUFFERS = frozenset({"attn_mask", "pixel_mean", "pixel_std", "clip_pixel_mean", "clip_pixel_std"})
IGNORED_LEAVES = {
    "ahs_seg": _SEG_BUFFERS | {"cross_attention_dim", "hidden_size", "sobel_x", "sobel_y", "layer_weights"},
    "catseg": _SEG_BUFFERS,
    "openai_clip": frozenset({"input_resolution", "context_length", "vocab_size", "attn_mask"}),
    "hf_clip": frozenset({"position_ids"}),
    **{name: frozenset(other.ignored) for name, other in OTHERS.items()},
}
IGNORED_PREFIXES = {"ahs_seg": UNUSED, **{name: other.zeros for name, other in OTHERS.items()}}


def entries(layout: str, config: ModelConfig) -> list[Entry]:
    """The table of a layout for a model of these sizes. CLIP layouts hold the two towers only.

    Raises:
      CheckpointError: the layout is unknown.
    """
    if layout == "openai_clip":
        return list(openai_names.towers("", config, fused=True))
    if layout == "hf_clip":
        return list(_hf_towers(config))
    if layout in OTHERS:
        return list(OTHERS[layout].entries(config, ""))
    if layout == "catseg":
        return [*openai_names.towers(CLIP_PREFIX, config, fused=False), *_aggregator(config)]
    if layout == "ahs_seg":
        return [
            *_own_towers(config),
            *_aggregator(config),
            *components(CLIP_PREFIX, config),
        ]
    raise CheckpointError(f"unknown checkpoint layout {layout!r}; choose one of {', '.join(LAYOUTS)}")


def of_towers(config: ModelConfig) -> str:
    """The layout that the towers of a model are published in, where it is no more than these."""
    towers = config.image.tower, config.text.tower
    return next(name for name in ("openai_clip", "hf_clip", *OTHERS) if towers in TOWERS[name])


def is_ignored(layout: str, name: str) -> bool:
    """True for the buffers and unused parameters that files of this layout may hold."""
    return name.rsplit(".", 1)[-1] in IGNORED_LEAVES[layout] or name.startswith(IGNORED_PREFIXES.get(layout, ()))


def _own_towers(config: ModelConfig) -> Iterator[Entry]:
    """Both towers in AHS-Seg's layout: CLIP's as published, and any other by its own names behind the same prefix."""
    layout = of_towers(config)
    if layout in OTHERS:
        yield from OTHERS[layout].entries(config, CLIP_PREFIX)
        return
    yield from openai_names.towers(CLIP_PREFIX, config, fused=True)


def _hf_towers(config: ModelConfig) -> Iterator[Entry]:
    """CLIP as Hugging Face's CLIPModel names it (`pre_layrnorm` is spelt so in the files)."""
    image, text, e = config.image, config.text, config.embed_dim
    tokens = 1 + image.pretrained_grid**2
    embeddings, patch = "vision_model.embeddings.", (image.width, 3, image.patch_size, image.patch_size)
    yield Entry("logit_scale", "clip/logit_scale", ())
    yield Entry(f"{embeddings}class_embedding", "clip/image/class_embedding", (image.width,))
    yield Entry(f"{embeddings}patch_embedding.weight", "clip/image/patch_embedding/kernel", patch, "conv")
    yield Entry(f"{embeddings}position_embedding.weight", "clip/image/position_embedding", (tokens, image.width))
    yield from norm("vision_model.pre_layrnorm", "clip/image/ln_pre", image.width)
    yield from norm("vision_model.post_layernorm", "clip/image/ln_post", image.width)
    yield Entry("visual_projection.weight", "clip/image/projection/kernel", (e, image.width), "linear")
    for layer in range(image.layers):
        yield from _hf_block(f"vision_model.encoder.layers.{layer}.", "image", image, layer)
    embeddings = "text_model.embeddings."
    yield Entry(f"{embeddings}token_embedding.weight", "clip/text/token_embedding", (text.vocab_size, text.width))
    yield Entry(f"{embeddings}position_embedding.weight", "clip/text/position_embedding", (text.context, text.width))
    yield Entry("text_projection.weight", "clip/text/projection/kernel", (e, text.width), "linear")
    yield from norm("text_model.final_layer_norm", "clip/text/ln_final", text.width)
    for layer in range(text.layers):
        yield from _hf_block(f"text_model.encoder.layers.{layer}.", "text", text, layer)


def _hf_block(source: str, tower: str, sizes: TowerConfig, layer: int) -> Iterator[Entry]:
    target, width, inner = f"clip/{tower}/blocks/", sizes.width, sizes.inner_width
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        yield from linear(f"{source}self_attn.{theirs}", f"{target}{ours}", width, width, layer)
    yield from norm(f"{source}layer_norm1", f"{target}ln_1", width, layer)
    yield from norm(f"{source}layer_norm2", f"{target}ln_2", width, layer)
    yield from linear(f"{source}mlp.fc1", f"{target}mlp_in", width, inner, layer)
    yield from linear(f"{source}mlp.fc2", f"{target}mlp_out", inner, width, layer)


def _aggregator(config: ModelConfig) -> Iterator[Entry]:
    """CAT-Seg's cost aggregation, decoder, and the transposed convolutions of the tower taps."""
    sizes, e = config.aggregator, config.embed_dim
    target = "aggregator/"
    for layer in range(sizes.layers):
        yield from _aggregator_layer(f"{PREDICTOR}layers.{layer}.", f"{target}layers_{layer}/", config)
    yield from conv(f"{PREDICTOR}conv1", f"{target}correlation_embedding", sizes.prompts, sizes.hidden, 7)
    appearance, text = sizes.appearance_guidance, sizes.text_guidance
    yield from conv(f"{PREDICTOR}guidance_projection.0", f"{target}appearance_guidance", e, appearance, 3)
    yield from linear(f"{PREDICTOR}text_guidance_projection.0", f"{target}text_guidance", e, text)
    channels = sizes.hidden
    for i, (out, guidance, up) in enumerate(zip(sizes.decoder, sizes.decoder_guidance, sizes.guidance_up, strict=True)):
        source = f"{PREDICTOR}decoder{i + 1}."
        stage = f"{target}decoder_{i + 1}/"
        projection = f"{PREDICTOR}decoder_guidance_projection.{i}.0"
        yield from conv(projection, f"{target}decoder_guidance_{i + 1}", up, guidance, 3)
        yield from conv_transpose(f"{source}up", f"{stage}up", channels, channels - guidance, 2)
        double = f"{source}conv.double_conv."
        yield Entry(f"{double}0.weight", f"{stage}conv_1/kernel", (out, channels, 3, 3), "conv")
        yield from norm(f"{double}1", f"{stage}norm_1", out)
        yield Entry(f"{double}3.weight", f"{stage}conv_2/kernel", (out, out, 3, 3), "conv")
        yield from norm(f"{double}4", f"{stage}norm_2", out)
        side = 2 * (i + 1)
        yield from conv_transpose(f"upsample{i + 1}", f"guidance_up_{i + 1}", config.image.width, up, side)
        channels = out
    yield from conv(f"{PREDICTOR}head", f"{target}head", channels, 1, 3)


def _aggregator_layer(source: str, target: str, config: ModelConfig) -> Iterator[Entry]:
    sizes = config.aggregator
    hidden, mlp = sizes.hidden, sizes.mlp_ratio * sizes.hidden
    swin, spatial = f"{source}swin_block.", f"{target}spatial/"
    yield from norm(f"{swin}guidance_norm", f"{spatial}guidance_norm", sizes.appearance_guidance)
    for name in ("block_1", "block_2"):
        attention, block = f"{swin}{name}.attn.", f"{spatial}{name}/"
        yield from norm(f"{swin}{name}.norm1", f"{block}ln_1", hidden)
        yield from linear(f"{attention}q", f"{block}query", hidden + sizes.appearance_guidance, hidden)
        yield from linear(f"{attention}k", f"{block}key", hidden + sizes.appearance_guidance, hidden)
        yield from linear(f"{attention}v", f"{block}value", hidden, hidden)
        yield from linear(f"{attention}proj", f"{block}out", hidden, hidden)
        yield from norm(f"{swin}{name}.norm2", f"{block}ln_2", hidden)
        yield from linear(f"{swin}{name}.mlp.fc1", f"{block}mlp_in", hidden, mlp)
        yield from linear(f"{swin}{name}.mlp.fc2", f"{block}mlp_out", mlp, hidden)
    classes, block = f"{source}attention.", f"{target}class/"
    if sizes.pad_len:
        yield Entry(f"{classes}padding_tokens", f"{block}padding_token", (1, 1, hidden), "token")
        yield Entry(f"{classes}padding_guidance", f"{block}padding_guidance", (1, 1, sizes.text_guidance), "token")
    yield from norm(f"{classes}norm1", f"{block}ln_1", hidden)
    yield from norm(f"{classes}norm2", f"{block}ln_2", hidden)
    yield from linear(f"{classes}attention.q", f"{block}query", hidden + sizes.text_guidance, hidden)
    yield from linear(f"{classes}attention.k", f"{block}key", hidden + sizes.text_guidance, hidden)
    yield from linear(f"{classes}attention.v", f"{block}value", hidden, hidden)
    yield from linear(f"{classes}MLP.0", f"{block}mlp_in", hidden, mlp)
    yield from linear(f"{classes}MLP.2", f"{block}mlp_out", mlp, hidden)
