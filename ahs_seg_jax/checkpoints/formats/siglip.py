"""SigLIP 2 as Hugging Face's SiglipModel names it: the table of its tensors, and its sizes.

Source: transformers' SiglipModel; the published files of google/siglip2-*-patch*-* with fixed resolution.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats.entry import Entry, linear, norm
from ahs_seg_jax.checkpoints.formats.stated import Stated
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.models.towers.config import mlp_width
from ahs_seg_jax.models.towers.siglip import EPSILON
from ahs_seg_jax.vocabulary.tokenizer import TOKENIZER

Shapes = Mapping[str, tuple[int, ...]]

NAME = "siglip"  # of the layout, and of the model's kind in its config.json
PROBE = "vision_model.head.probe"  # only a SigLIP has it
HEAD_DIMS = {1152: 72}  # channels a head by width (SO400M); 64 otherwise
PIXEL = (127.5, 127.5, 127.5)  # mean and deviation: pixels from -1 to 1
ACTIVATION = "gelu_tanh"
STATED = Stated(ACTIVATION)
_WINDOW = 12  # of the aggregator, where it divides the grid


def recognised(shapes: Shapes) -> bool:
    """Whether the names are those of a whole SigLIP."""
    return PROBE in shapes and any(name.startswith("text_model.") for name in shapes)


def entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """The table of a SigLIP's file, which holds the two towers only; `prefix` stands before every name."""
    for entry in _entries(config):
        yield dataclasses.replace(entry, source=prefix + entry.source)


def _entries(config: ModelConfig) -> Iterator[Entry]:
    image, text = config.image, config.text
    yield Entry("logit_scale", "clip/logit_scale", (1,), "scalar")
    yield Entry("logit_bias", "clip/text/logit_bias", (1,), "scalar")
    embeddings, patch = "vision_model.embeddings.", (image.width, 3, image.patch_size, image.patch_size)
    positions = (image.pretrained_grid**2, image.width)
    yield Entry(f"{embeddings}patch_embedding.weight", "clip/image/patch_embedding/kernel", patch, "conv")
    yield Entry(f"{embeddings}patch_embedding.bias", "clip/image/patch_embedding/bias", (image.width,))
    yield Entry(f"{embeddings}position_embedding.weight", "clip/image/position_embedding", positions)
    for layer in range(image.layers):
        yield from _block(f"vision_model.encoder.layers.{layer}.", "image", image, layer)
    yield from norm("vision_model.post_layernorm", "clip/image/ln_post", image.width)
    yield from _pooling_head(image)
    embeddings = "text_model.embeddings."
    yield Entry(f"{embeddings}token_embedding.weight", "clip/text/token_embedding", (text.vocab_size, text.width))
    yield Entry(f"{embeddings}position_embedding.weight", "clip/text/position_embedding", (text.context, text.width))
    for layer in range(text.layers):
        yield from _block(f"text_model.encoder.layers.{layer}.", "text", text, layer)
    yield from norm("text_model.final_layer_norm", "clip/text/ln_final", text.width)
    yield from linear("text_model.head", "clip/text/projection", text.width, config.embed_dim)


def _pooling_head(image: ImageTowerConfig) -> Iterator[Entry]:
    source, target, width = "vision_model.head.", "clip/image/pool_", image.width
    yield Entry(f"{source}probe", f"{target}probe", (1, 1, width), "token")
    for i, name in enumerate(("query", "key", "value")):
        weight, bias = f"{source}attention.in_proj_weight", f"{source}attention.in_proj_bias"
        yield Entry(weight, f"{target}{name}/kernel", (3 * width, width), "linear", part=(i, 3))
        yield Entry(bias, f"{target}{name}/bias", (3 * width,), part=(i, 3))
    inner = image.inner_width
    yield from linear(f"{source}attention.out_proj", f"{target}out", width, width)
    yield from norm(f"{source}layernorm", f"{target}norm", width)
    yield from linear(f"{source}mlp.fc1", f"{target}mlp_in", width, inner)
    yield from linear(f"{source}mlp.fc2", f"{target}mlp_out", inner, width)


def _block(source: str, tower: str, sizes: ImageTowerConfig | TextTowerConfig, layer: int) -> Iterator[Entry]:
    target, width, inner = f"clip/{tower}/blocks/", sizes.width, sizes.inner_width
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        yield from linear(f"{source}self_attn.{theirs}", f"{target}{ours}", width, width, layer)
    yield from norm(f"{source}layer_norm1", f"{target}ln_1", width, layer)
    yield from norm(f"{source}layer_norm2", f"{target}ln_2", width, layer)
    yield from linear(f"{source}mlp.fc1", f"{target}mlp_in", width, inner, layer)
    yield from linear(f"{source}mlp.fc2", f"{target}mlp_out", inner, width, layer)


def model_config(
    shapes: Shapes, stated: Mapping[str, Any] | None, where: str, expected: ModelConfig | None = None
) -> ModelConfig:
    """The model's sizes from the shapes of its tensors and from `config.json`, whose `model_type` is siglip.

    The file's configuration states what shapes do not show: heads, activation and epsilon. Without it they are the
    published ones. The crop is that of the position embedding.

    Raises:
      CheckpointError: a tensor that shows a size is missing, or the configuration states what is not computed here.
    """
    check_stated(stated or {}, where)
    image = _tower(shapes, stated, "vision", where)
    text = _tower(shapes, stated, "text", where)
    patch = _size(shapes, "vision_model.embeddings.patch_embedding.weight", 3, where)
    grid = math.isqrt(_size(shapes, "vision_model.embeddings.position_embedding.weight", 0, where))
    vocabulary, words = (
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
    )
    layers = image["layers"]
    taps = max(layers // 3, 1) - 1, max(2 * layers // 3, 2) - 1
    published = ModelConfig(adaptation="none", mh_fpn=False, dc_hsp=False)
    window = next((side for side in range(min(_WINDOW, grid), 0, -1) if grid % side == 0), 1)
    return published.replace(
        image=ImageTowerConfig(
            tower="siglip",
            patch_size=patch,
            crop=grid * patch,
            pretrained_grid=grid,
            pixel_mean=PIXEL,
            pixel_std=PIXEL,
            **image,
        ),
        text=TextTowerConfig(
            tower="siglip",
            vocab_size=_size(shapes, vocabulary, 0, where),
            context=_size(shapes, words, 0, where),
            tokenizer=TOKENIZER,
            **text,
        ),
        embed_dim=image["width"],
        guidance_taps=taps,
        mh_fpn_taps=(*taps, layers - 1),
        aggregator=published.aggregator.__class__(window=window),
    )


def check_stated(stated: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError if a `config.json` describes what is not computed here; an empty one describes nothing."""
    if not stated:
        return
    kind = stated.get("model_type")
    if kind != NAME:
        raise CheckpointError(
            f"{where}: config.json says model_type {kind!r}; of SigLIP the models of fixed resolution (siglip) are read"
        )
    for part in ("vision_config", "text_config"):
        sizes = _group(stated, part, where)
        activation, eps = sizes.get("hidden_act", "gelu_pytorch_tanh"), sizes.get("layer_norm_eps", EPSILON)
        if activation != "gelu_pytorch_tanh" or eps != EPSILON:
            raise CheckpointError(
                f"{where}: config.json says {part}.hidden_act = {activation!r}, layer_norm_eps = {eps}; "
                f"SigLIP is computed here with gelu_pytorch_tanh and {EPSILON}"
            )


def _group(stated: Mapping[str, Any], part: str, where: str) -> Mapping[str, Any]:
    group = stated.get(part) or {}
    if not isinstance(group, Mapping):
        raise CheckpointError(f"{where}: {part} in config.json is a {type(group).__name__}, not a JSON object")
    return group


def _tower(shapes: Shapes, stated: Mapping[str, Any] | None, part: str, where: str) -> dict[str, Any]:
    prefix = f"{part}_model.encoder.layers."
    numbers = (n[len(prefix) :].partition(".")[0] for n in shapes if n.startswith(prefix))
    layers = 1 + max((int(number) for number in numbers if re.fullmatch("[0-9]{1,9}", number)), default=-1)
    width = _size(shapes, f"{prefix}0.layer_norm1.weight", 0, where)
    inner = _size(shapes, f"{prefix}0.mlp.fc1.weight", 0, where)
    heads = _group(stated or {}, f"{part}_config", where).get("num_attention_heads", width // HEAD_DIMS.get(width, 64))
    if type(heads) is not int or heads < 1 or width % heads:
        raise CheckpointError(f"{where}: {part}_config.num_attention_heads is {heads!r}, which does not divide {width}")
    found = {"layers": layers, "width": width, "heads": heads, "mlp_width": mlp_width(inner, width)}
    return found | {"activation": ACTIVATION}


def _size(shapes: Shapes, name: str, axis: int, where: str) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise CheckpointError(f"{where} looks like a SigLIP, but {name} is missing or has too few axes")
    return shape[axis]
