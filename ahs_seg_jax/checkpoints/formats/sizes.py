"""Which layout a file has, and the model's sizes, from nothing but the names and shapes of its tensors."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats.component_layouts import MODULATOR, PROJECTION, PYRAMID, ROTATION
from ahs_seg_jax.checkpoints.formats.layouts import CLIP_PREFIX, LAYOUTS, PREDICTOR, is_ignored
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import (
    AggregatorConfig,
    ImageTowerConfig,
    ModelConfig,
    TextTowerConfig,
    vitb16,
    vitl14_336,
)

Shapes = Mapping[str, tuple[int, ...]]

GRID = 24  # both published sizes feed the tower a crop of 24 x 24 patches
HEAD_DIM = 64  # of every CLIP tower

# Where each size of the towers stands in a file: (name, axis). Several places, so that one wrong tensor is found out.
_OPENAI = {
    "image_width": (("visual.class_embedding", 0), ("visual.positional_embedding", 1), ("visual.ln_post.weight", 0)),
    "patch": (("visual.conv1.weight", 3),),
    "tokens": (("visual.positional_embedding", 0),),
    "embed": (("visual.proj", 1), ("text_projection", 1)),
    "text_width": (("ln_final.weight", 0), ("positional_embedding", 1), ("token_embedding.weight", 1)),
    "vocab": (("token_embedding.weight", 0),),
    "context": (("positional_embedding", 0),),
}
_HF = {
    "image_width": (("vision_model.embeddings.class_embedding", 0), ("vision_model.post_layernorm.weight", 0)),
    "patch": (("vision_model.embeddings.patch_embedding.weight", 3),),
    "tokens": (("vision_model.embeddings.position_embedding.weight", 0),),
    "embed": (("visual_projection.weight", 0), ("text_projection.weight", 0)),
    "text_width": (("text_model.final_layer_norm.weight", 0), ("text_model.embeddings.token_embedding.weight", 1)),
    "vocab": (("text_model.embeddings.token_embedding.weight", 0),),
    "context": (("text_model.embeddings.position_embedding.weight", 0),),
}
_BLOCKS = {
    "openai": (r"visual\.transformer\.resblocks\.(\d+)\.", r"transformer\.resblocks\.(\d+)\."),
    "hf": (r"vision_model\.encoder\.layers\.(\d+)\.", r"text_model\.encoder\.layers\.(\d+)\."),
}


def recognise(shapes: Shapes, where: str) -> str:
    """The layout of a file, from its names.

    Raises:
      CheckpointError: the names belong to no known layout; the message shows some of them.
    """
    if any(name.startswith(CLIP_PREFIX) for name in shapes):
        apart = any(name.startswith(CLIP_PREFIX) and name.endswith(".attn.q_proj_weight") for name in shapes)
        return "catseg" if apart else "ahs_seg"
    if any(name.startswith(("vision_model.", "text_model.")) for name in shapes):
        return "hf_clip"
    if any(name.startswith(("visual.", "transformer.resblocks.")) for name in shapes):
        return "openai_clip"
    shown = ", ".join(list(shapes)[:5]) or "none"
    raise CheckpointError(
        f"{where} holds no checkpoint that is known here ({', '.join(LAYOUTS)}): it has {len(shapes)} tensors, "
        f"the first names are: {shown}"
    )


def model_config(
    layout: str,
    shapes: Shapes,
    where: str,
    hf_config: Mapping[str, Any] | None = None,
    expected: ModelConfig | None = None,
) -> ModelConfig:
    """The model's sizes, as far as shapes tell them; what is missing is taken from the nearest published size.

    Not visible in shapes, and therefore as published: 64 channels a head, a crop of 24 x 24 patches, taps after each
    third of the image tower, the aggregator's heads, window and number of padded classes. `hf_config` is config.json
    of a Hugging Face directory, which states layers and heads. `expected`, the model that is to take the weights, gives
    what no shape shows, but no size.

    Raises:
      CheckpointError: a tower's width is not a multiple of 64 and neither configuration gives the number of heads; or
        `hf_config` describes a CLIP that computes something else.
    """
    shapes = {name: shape for name, shape in shapes.items() if not is_ignored(layout, name)}
    config = _towers(layout, shapes, where, _stated(hf_config or {}, where), expected)
    config = config.replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    if layout in ("ahs_seg", "catseg"):
        config = config.replace(aggregator=_aggregator(shapes))
    if layout == "ahs_seg":
        config = _with_components(config, shapes)
    return config if expected is None else _with_invisible(config, expected)


def _with_invisible(config: ModelConfig, expected: ModelConfig) -> ModelConfig:
    """`config` with those fields of `expected` that no shape shows."""
    crop = expected.image.crop if expected.image.patch_size == config.image.patch_size else config.image.crop
    same_depth = expected.image.layers == config.image.layers
    aggregator = {name: getattr(expected.aggregator, name) for name in ("heads", "window", "pad_len")}
    return config.replace(
        image=dataclasses.replace(config.image, crop=crop),
        aggregator=dataclasses.replace(config.aggregator, **aggregator),
        guidance_taps=expected.guidance_taps if same_depth else config.guidance_taps,
        mh_fpn_taps=expected.mh_fpn_taps if same_depth else config.mh_fpn_taps,
    )


def _stated(hf_config: Mapping[str, Any], where: str) -> dict[str, dict[str, int]]:
    """Layers and heads of the towers that a Hugging Face configuration states, after a check of what it computes."""
    found = {}
    for tower, key in (("image", "vision_config"), ("text", "text_config")):
        stated = hf_config.get(key) or {}
        if not isinstance(stated, Mapping):
            raise CheckpointError(f"{where}: {key} in config.json is a {type(stated).__name__}, not a JSON object")
        activation, eps = stated.get("hidden_act", "quick_gelu"), stated.get("layer_norm_eps", 1e-5)
        if activation != "quick_gelu" or eps != 1e-5:
            raise CheckpointError(
                f"{where}: config.json says {key}.hidden_act = {activation!r}, layer_norm_eps = {eps}; this program "
                "computes CLIP as OpenAI published it, with quick_gelu and 1e-05"
            )
        names = {"layers": "num_hidden_layers", "heads": "num_attention_heads"}
        found[tower] = {ours: stated[theirs] for ours, theirs in names.items() if theirs in stated}
        for ours, value in found[tower].items():
            if type(value) is not int or value < 1:
                raise CheckpointError(
                    f"{where}: {key}.{names[ours]} in config.json is {value!r}, not a number of {ours}"
                )
    return found


def _heads(tower: str, width: int, stated: Mapping[str, int], expected: ModelConfig | None, where: str) -> int:
    if "heads" in stated:
        return stated["heads"]
    if width % HEAD_DIM == 0:
        return width // HEAD_DIM
    if expected is None:
        raise CheckpointError(
            f"{where}: the {tower} tower is {width} wide, which is no multiple of {HEAD_DIM} channels a head as in "
            "every published CLIP, and the file does not state its number of heads; give the configuration of the model"
        )
    return int(getattr(expected, tower).heads)


def _towers(
    layout: str, shapes: Shapes, where: str, stated: dict[str, dict[str, int]], expected: ModelConfig | None
) -> ModelConfig:
    family = "hf" if layout == "hf_clip" else "openai"
    prefix = CLIP_PREFIX if layout in ("ahs_seg", "catseg") else ""
    probes = _HF if family == "hf" else _OPENAI

    def size(key: str, default: int) -> int:
        found = [shapes[prefix + n][a] for n, a in probes[key] if len(shapes.get(prefix + n, ())) > a]
        return default if not found or default in found else Counter(found).most_common(1)[0][0]

    image_width = size("image_width", vitb16().image.width)
    nearest = vitl14_336() if image_width == vitl14_336().image.width else vitb16()
    text_width = size("text_width", nearest.text.width)
    patch = size("patch", nearest.image.patch_size)
    tokens = size("tokens", 1 + nearest.image.pretrained_grid**2)
    images, texts = (_count(prefix.replace(".", r"\.") + pattern, shapes) for pattern in _BLOCKS[family])
    # A file of a published size that lacks its last blocks is a partial file, not a shallower model.
    if (image_width, patch) == (nearest.image.width, nearest.image.patch_size):
        images = max(images, nearest.image.layers)
    if text_width == nearest.text.width:
        texts = max(texts, nearest.text.layers)
    images, texts = stated["image"].get("layers", images), stated["text"].get("layers", texts)
    first, second = max(images // 3, 1) - 1, max(2 * images // 3, 2) - 1
    return ModelConfig(
        image=ImageTowerConfig(
            layers=images,
            width=image_width,
            heads=_heads("image", image_width, stated["image"], expected, where),
            patch_size=patch,
            crop=GRID * patch,
            pretrained_grid=math.isqrt(max(tokens - 1, 1)),
        ),
        text=TextTowerConfig(
            layers=texts,
            width=text_width,
            heads=_heads("text", text_width, stated["text"], expected, where),
            vocab_size=size("vocab", nearest.text.vocab_size),
            context=size("context", nearest.text.context),
        ),
        embed_dim=size("embed", nearest.embed_dim),
        guidance_taps=(first, second),
        mh_fpn_taps=(first, second, images - 1),
    )


def _count(pattern: str, shapes: Shapes) -> int:
    found = [int(match.group(1)) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _aggregator(shapes: Shapes) -> AggregatorConfig:
    published = AggregatorConfig()

    def size(name: str, axis: int, default: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else default

    hidden = size(f"{PREDICTOR}conv1.weight", 0, published.hidden)
    mlp = size(f"{PREDICTOR}layers.0.swin_block.block_1.mlp.fc1.weight", 0, published.mlp_ratio * hidden)
    stages = range(len(published.decoder))
    guidance = [
        size(f"{PREDICTOR}decoder_guidance_projection.{i}.0.weight", 0, published.decoder_guidance[i]) for i in stages
    ]
    decoder = [size(f"{PREDICTOR}decoder{i + 1}.conv.double_conv.0.weight", 0, published.decoder[i]) for i in stages]
    up = [size(f"upsample{i + 1}.weight", 1, published.guidance_up[i]) for i in stages]
    return AggregatorConfig(
        hidden=hidden,
        layers=max(_count(PREDICTOR.replace(".", r"\.") + r"layers\.(\d+)\.", shapes), published.layers),
        mlp_ratio=max(mlp // max(hidden, 1), 1),
        prompts=size(f"{PREDICTOR}conv1.weight", 1, published.prompts),
        appearance_guidance=size(f"{PREDICTOR}guidance_projection.0.weight", 0, published.appearance_guidance),
        text_guidance=size(f"{PREDICTOR}text_guidance_projection.0.weight", 0, published.text_guidance),
        decoder=(decoder[0], decoder[1]),
        decoder_guidance=(guidance[0], guidance[1]),
        guidance_up=(up[0], up[1]),
    )


def _with_components(config: ModelConfig, shapes: Shapes) -> ModelConfig:
    core = next((shape for name, shape in shapes.items() if name.endswith(f".{ROTATION}layer_R")), ())
    if len(core) == 4:
        config = config.replace(block_size=core[0])
    if any(ROTATION in name for name in shapes):
        modulated = any(name.startswith(MODULATOR) for name in shapes)
        config = config.replace(adaptation="ha_hem" if modulated else "orthogonal")
    if any(name.startswith(PYRAMID) for name in shapes):
        kinds = {
            "fusion_weights": "weighted",
            "fusion_attention.2.weight": "attention",
            "fusion_proj.0.weight": "concat",
        }
        fusion = next((kind for name, kind in kinds.items() if PYRAMID + name in shapes), config.mh_fpn_fusion)
        config = config.replace(mh_fpn=True, mh_fpn_fusion=fusion)
    if any(name.startswith(PROJECTION) for name in shapes):
        rank = shapes.get(f"{PROJECTION}text_proj.delta_A.weight", (config.dc_hsp_rank,))[0]
        config = config.replace(dc_hsp=True, dc_hsp_rank=rank)
    return config
