"""Which layout a file has, and the model's sizes, from nothing but the names and shapes of its tensors."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ahs_seg_jax.checkpoints.formats import others
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
from ahs_seg_jax.models.towers.config import mlp_width
from ahs_seg_jax.vocabulary.tokenizer import CLIP

Shapes = Mapping[str, tuple[int, ...]]
Sizes = Mapping[str, Mapping[str, int]]  # tower -> what a configuration states of it


class Words(NamedTuple):
    """Who reads the text of a file with CLIP's names: the text tower, and its tokenizer."""

    tower: str = "clip"
    tokenizer: str = CLIP  # or the path of a tokenizer.json


GRID = 24  # both published sizes feed the tower a crop of 24 x 24 patches
HEAD_DIM = 64  # of CLIP's towers, but for the image towers of
HEAD_DIMS_BY_WIDTH = {1280: 80, 1408: 88, 1664: 104}  # ViT-H, ViT-g and ViT-bigG, by open_clip's configurations
OTHER_TOKENIZERS = 10_000  # tokens; a vocabulary of so many that is not CLIP's belongs to another tokenizer
CLIP_VOCABULARY = 49408

# Where each size of the towers stands in a file: (name, axis). Several places, so that one wrong tensor is found out.
_OPENAI = {
    "image_width": (("visual.class_embedding", 0), ("visual.positional_embedding", 1), ("visual.ln_post.weight", 0)),
    "image_inner": tuple((f"visual.transformer.resblocks.{i}.mlp.c_fc.bias", 0) for i in range(3)),
    "patch": (("visual.conv1.weight", 3),),
    "tokens": (("visual.positional_embedding", 0),),
    "embed": (("visual.proj", 1), ("text_projection", 1)),
    "text_width": (("ln_final.weight", 0), ("positional_embedding", 1), ("token_embedding.weight", 1)),
    "text_inner": tuple((f"transformer.resblocks.{i}.mlp.c_fc.bias", 0) for i in range(3)),
    "vocab": (("token_embedding.weight", 0),),
    "context": (("positional_embedding", 0),),
}
_HF = {
    "image_width": (("vision_model.embeddings.class_embedding", 0), ("vision_model.post_layernorm.weight", 0)),
    "image_inner": tuple((f"vision_model.encoder.layers.{i}.mlp.fc1.bias", 0) for i in range(3)),
    "patch": (("vision_model.embeddings.patch_embedding.weight", 3),),
    "tokens": (("vision_model.embeddings.position_embedding.weight", 0),),
    "embed": (("visual_projection.weight", 0), ("text_projection.weight", 0)),
    "text_width": (("text_model.final_layer_norm.weight", 0), ("text_model.embeddings.token_embedding.weight", 1)),
    "text_inner": tuple((f"text_model.encoder.layers.{i}.mlp.fc1.bias", 0) for i in range(3)),
    "vocab": (("text_model.embeddings.token_embedding.weight", 0),),
    "context": (("text_model.embeddings.position_embedding.weight", 0),),
}
_BLOCKS = {
    "openai": (r"visual\.transformer\.resblocks\.(\d{1,9})\.", r"transformer\.resblocks\.(\d{1,9})\."),
    "hf": (r"vision_model\.encoder\.layers\.(\d{1,9})\.", r"text_model\.encoder\.layers\.(\d{1,9})\."),
}


def recognise(shapes: Shapes, where: str) -> str:
    """The layout of a file, from its names.

    Raises:
      CheckpointError: the names belong to no known layout; the message shows some of them.
    """
    if any(name.startswith(CLIP_PREFIX) for name in shapes):
        apart = any(name.startswith(CLIP_PREFIX) and name.endswith(".attn.q_proj_weight") for name in shapes)
        return "catseg" if apart else "ahs_seg"
    if layout := others.recognised(shapes):
        return layout
    if other := _other_kind(shapes):
        raise CheckpointError(
            f"{where} holds {other}; this program reads CLIP with a plain vision transformer and CLIP's own text "
            "tower, SigLIP and PE-Core as their authors publish them, open_clip's EVA-02, and MetaCLIP 2"
        )
    if any(name.startswith(("vision_model.", "text_model.")) for name in shapes):
        return "hf_clip"
    if any(name.startswith(("visual.", "transformer.resblocks.")) for name in shapes):
        return "openai_clip"
    shown = ", ".join(list(shapes)[:5]) or "none"
    raise CheckpointError(
        f"{where} holds no checkpoint that is known here ({', '.join(LAYOUTS)}): it has {len(shapes)} tensors, "
        f"the first names are: {shown}"
    )


# What the names of tensors begin with in files of other models that contrast images and texts.
_OTHER_KINDS = {
    "logit_bias": "a part of a SigLIP model",
    "vision_model.head.": "a part of a SigLIP model",
    "visual.trunk.": "a model with an image tower of timm that is not PE-Core's or EVA-02's",
    "visual.layer1.": "a CLIP with a ResNet",
    "visual.attnpool.": "a CLIP with a ResNet",
    "visual.blocks.": "an EVA-CLIP in its authors' names (timm has it in open_clip's)",
    "visual.attn_pool.": "a CoCa model",
    "text_decoder.": "a CoCa model",
    "text.": "a model with another text tower (open_clip's custom_text)",
    "blocks.0.": "an image tower alone, in timm's names",
}


def _other_kind(shapes: Shapes) -> str | None:
    """What a file holds that is a model of another kind; None if no name says so."""
    return next((kind for start, kind in _OTHER_KINDS.items() if any(name.startswith(start) for name in shapes)), None)


def model_config(
    layout: str,
    shapes: Shapes,
    where: str,
    stated: Sizes | None = None,
    expected: ModelConfig | None = None,
    words: Words = Words(),  # noqa: B008 (it cannot change)
) -> ModelConfig:
    """The model's sizes, as far as shapes tell them; what is missing is taken from the nearest published size.

    Not visible in shapes, and therefore as published: 64 channels a head, a crop of 24 x 24 patches, taps after each
    third of the image tower, the aggregator's heads, window and number of padded classes. `stated` are the "layers",
    "heads" and "width" of "image" and "text" by a configuration beside the file. `expected`, the model that is to take
    the weights, gives what no shape shows, but no size. `words` are who reads the text, if not CLIP.

    Raises:
      CheckpointError: a tower's width is not a multiple of 64 and neither configuration gives the number of heads; or
        `stated` is of another model; or the vocabulary is not that of CLIP's tokenizer.
    """
    shapes = {name: shape for name, shape in shapes.items() if not is_ignored(layout, name)}
    config = _towers(layout, shapes, where, stated or {}, expected, words)
    config = config.replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    if layout in ("ahs_seg", "catseg"):
        config = config.replace(aggregator=_aggregator(shapes))
    if layout == "ahs_seg":
        config = _with_components(config, shapes)
    return config if expected is None else with_invisible(config, expected)


def with_invisible(config: ModelConfig, expected: ModelConfig) -> ModelConfig:
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


def _heads(tower: str, width: int, stated: Mapping[str, int], expected: ModelConfig | None, where: str) -> int:
    if "heads" in stated:
        return stated["heads"]
    head = HEAD_DIM if tower == "text" else HEAD_DIMS_BY_WIDTH.get(width, HEAD_DIM)
    if width % head == 0:
        return width // head
    if expected is None:
        raise CheckpointError(
            f"{where}: the {tower} tower is {width} wide, which is no multiple of {HEAD_DIM} channels a head as in "
            "every published CLIP, and the file does not state its number of heads; give the configuration of the model"
        )
    return int(getattr(expected, tower).heads)


def _towers(
    layout: str, shapes: Shapes, where: str, stated: Sizes, expected: ModelConfig | None, words: Words
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
    image, text = stated.get("image", {}), stated.get("text", {})
    images, texts = image.get("layers", images), text.get("layers", texts)
    vocabulary = size("vocab", nearest.text.vocab_size)
    _check_stated(where, {"image": (image, image_width), "text": (text, text_width)})
    _check_vocabulary(where, vocabulary, words)
    first, second = max(images // 3, 1) - 1, max(2 * images // 3, 2) - 1
    return ModelConfig(
        image=ImageTowerConfig(
            layers=images,
            width=image_width,
            heads=_heads("image", image_width, image, expected, where),
            patch_size=patch,
            crop=GRID * patch,
            pretrained_grid=math.isqrt(max(tokens - 1, 1)),
            mlp_width=mlp_width(size("image_inner", 4 * image_width), image_width),
        ),
        text=TextTowerConfig(
            tower=words.tower,
            tokenizer=words.tokenizer,
            layers=texts,
            width=text_width,
            heads=_heads("text", text_width, text, expected, where),
            vocab_size=vocabulary,
            context=size("context", nearest.text.context),
            mlp_width=mlp_width(size("text_inner", 4 * text_width), text_width),
        ),
        embed_dim=size("embed", nearest.embed_dim),
        guidance_taps=(first, second),
        mh_fpn_taps=(first, second, images - 1),
    )


def _check_stated(where: str, towers: Mapping[str, tuple[Mapping[str, int], int]]) -> None:
    for tower, (stated, width) in towers.items():
        if stated.get("width", width) != width:
            raise CheckpointError(
                f"{where}: its {tower} tower is {width} wide, and {stated['width']} by the configuration beside it, "
                "which is of another model; put the file into a folder of its own"
            )


def _check_vocabulary(where: str, vocabulary: int, words: Words) -> None:
    if words.tokenizer == CLIP and vocabulary >= OTHER_TOKENIZERS and vocabulary != CLIP_VOCABULARY:
        raise CheckpointError(
            f"{where} cannot be used: its vocabulary of {vocabulary} tokens is not that of CLIP's tokenizer, "
            f"{CLIP_VOCABULARY}; other words are read of a whole repository of MetaCLIP 2 or SigLIP only"
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
        layers=max(_count(PREDICTOR.replace(".", r"\.") + r"layers\.(\d{1,9})\.", shapes), published.layers),
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
