"""The small configuration files beside a CLIP's weights: what they state, and whether it is a CLIP of this kind.

`config.json`, `preprocessor_config.json` (or `processor_config.json`) and `tokenizer_config.json` are those of
transformers, `open_clip_config.json` is open_clip's. They are small, so that a model that cannot be used is refused
before its weights are downloaded or read.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import others, siglip
from ahs_seg_jax.checkpoints.formats.stated import CLIP_TOKENIZER, OPENAI_MEAN, OPENAI_STD, Pixel, Stated
from ahs_seg_jax.errors import CheckpointError

HF_CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
FILES = (HF_CONFIG, "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", OPEN_CLIP_CONFIG)

METACLIP2, XLM_V_END = "metaclip_2", 2  # its kind by config.json, and the end token of the tokenizer it has
# What transformers takes where config.json, which lists what differs from it, says nothing.
_HF_DEFAULTS = {
    "vision_config": {"num_hidden_layers": 12, "num_attention_heads": 12},
    "text_config": {"num_hidden_layers": 12, "num_attention_heads": 8},
}
_HF_SIZES = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "width": "hidden_size"}
_HF_COMMON = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_HF_TOKENIZERS = {"CLIPTokenizer": CLIP_TOKENIZER, "CLIPTokenizerFast": CLIP_TOKENIZER}
_ANY_TOKENIZER = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that hold any tokenizer
# Fields of open_clip's configuration that may hold anything: they are read here, or do not change what is computed.
_FREE = (
    *("embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale", "layers", "width", "heads"),
    *("head_width", "mlp_ratio", "patch_size", "image_size", "context_length", "vocab_size", "hf_tokenizer_name"),
    *("eos_id", "tokenizer_kwargs", "norm_kwargs", "patch_dropout", "attn_pooler_queries", "attn_pooler_heads"),
    *("output_tokens", "tiktoken_name", "timm_pool", "timm_proj", "timm_model_pretrained", "hf_model_pretrained"),
    "cast_dtype",
)
# The values of others that are CLIP's; of all the rest nothing, False or zero is.
_USUAL = {"pos_embed_type": "learnable", "pool_type": ("tok", "argmax"), "proj_type": "linear"}
_USUAL |= {"text_arch": "clip", "block_type": "default"}


@dataclasses.dataclass(frozen=True)
class Beside:
    """What configurations state: facts, for "image" and "text" the numbers of "layers", "heads" and "width", and which
    tower reads the text; any but CLIP's needs the tokenizer.json beside the weights.
    """

    stated: tuple[Stated, ...] = ()
    sizes: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    text_tower: str = "clip"


def read(folder: pathlib.Path, layout: str = "hf_clip", certain: bool = True) -> Beside:
    """What the files in a folder state of weights of this layout; the configuration of the layout's program counts.

    Unless it is `certain` that they belong to the weights, configurations of other models than CLIP say nothing.

    Raises:
      CheckpointError: they describe another kind of model, or are damaged.
    """
    found = {name: _json(folder / name) for name in FILES if (folder / name).is_file()}
    config, open_clip = found.get(HF_CONFIG, {}), None
    if config.get("model_type") == siglip.NAME and certain:
        return _siglip(folder, config, found)
    if OPEN_CLIP_CONFIG in found:
        open_clip = _open_clip(folder / OPEN_CLIP_CONFIG, found[OPEN_CLIP_CONFIG])
    if not ({"model_type", "vision_config", "text_config"} & config.keys() if certain else _is_clip(config)):
        return open_clip or Beside()
    if open_clip and layout == "openai_clip":
        return open_clip
    hugging_face = _hugging_face(folder, config)
    stated = [*hugging_face.stated, *(_pixels(folder / name, found[name]) for name in FILES[1:3] if name in found)]
    if "tokenizer_config.json" in found and hugging_face.text_tower == "clip":
        stated.append(_tokenizer(found["tokenizer_config.json"]))
    if open_clip and not any(each.pixel_mean for each in stated):
        stated += [dataclasses.replace(each, activation=None, tokenizer=None) for each in open_clip.stated]
    return dataclasses.replace(hugging_face, stated=tuple(stated))


def _siglip(folder: pathlib.Path, config: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> Beside:
    """What is stated of a SigLIP, whose configuration is checked. Its pixels go from -1 to 1, unless a file says it."""
    siglip.check_stated(config, str(folder))
    pixels = [_pixels(folder / name, found[name]) for name in FILES[1:3] if name in found]
    halves: Pixel = (0.5, 0.5, 0.5)
    assumed = () if any(each.pixel_mean for each in pixels) else (Stated(None, halves, halves, stated_by=HF_CONFIG),)
    return Beside((Stated(siglip.ACTIVATION, stated_by=HF_CONFIG), *pixels, *assumed))


def _is_clip(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "clip"


def _json(path: pathlib.Path) -> dict[str, Any]:
    return manifests.parse_json(path.read_bytes(), path)


def _group(path: pathlib.Path, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    group = content.get(key) or {}
    if not isinstance(group, Mapping):
        raise CheckpointError(f"{path.parent}: {key} in {path.name} is a {type(group).__name__}, not a JSON object")
    return group


def _plain(value: Any) -> Any:
    """A value as it stands, or what it looks like: so that lists, which no field is, can be compared too."""
    return value if isinstance(value, str | int | float) else repr(value)


def _whole(path: pathlib.Path, key: str, value: Any, what: str) -> int:
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{path.parent}: {key} in {path.name} is {value!r}, not a number of {what}")
    return value


def _other_kind(path: pathlib.Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.parent} holds {what} by its {path.name}; this program reads CLIP with a plain vision transformer and "
        "CLIP's own text tower, SigLIP and PE-Core as their authors publish them, EVA-02 and MetaCLIP 2"
    )


def _hugging_face(folder: pathlib.Path, content: Mapping[str, Any]) -> Beside:
    path = folder / HF_CONFIG
    kind = content.get("model_type", "clip")
    if kind not in ("clip", METACLIP2):
        raise _other_kind(path, f"a model of the kind {kind!r}")
    if kind == METACLIP2 and (end := _group(path, content, "text_config").get("eos_token_id")) != XLM_V_END:
        raise _other_kind(path, f"a MetaCLIP 2 whose texts end with the token {end}, not with XLM-V's {XLM_V_END},")
    sizes: dict[str, dict[str, int]] = {}
    found: dict[str, set[Any]] = {key: set() for key in _HF_COMMON}
    for tower, key in (("image", "vision_config"), ("text", "text_config")):
        group = _group(path, content, key)
        stated = {**_HF_COMMON, **(_HF_DEFAULTS[key] if "model_type" in content else {}), **group}
        for name in _HF_COMMON:
            found[name].add(_plain(stated[name]))
        sizes[tower] = {
            ours: _whole(path, f"{key}.{theirs}", stated[theirs], ours)
            for ours, theirs in _HF_SIZES.items()
            if theirs in stated
        }
    for name, values in found.items():
        if len(values) > 1:
            raise _other_kind(path, f"two towers with different {name} ({' and '.join(sorted(map(repr, values)))})")
    activation, eps = found["hidden_act"].pop(), found["layer_norm_eps"].pop()
    silent = not any("hidden_act" in _group(path, content, key) for key in _HF_DEFAULTS)
    by = f"transformers' default, which {HF_CONFIG} leaves as it is" if silent else HF_CONFIG
    stated_here = (Stated(activation, stated_by=by, yields=silent), Stated(eps=eps, stated_by=HF_CONFIG))
    return Beside(stated_here, sizes, "metaclip2" if kind == METACLIP2 else "clip")


def _tokenizer(content: Mapping[str, Any]) -> Stated:
    name = str(content.get("tokenizer_class", "CLIPTokenizer"))
    tokenizer = None if name in _ANY_TOKENIZER else _HF_TOKENIZERS.get(name, name)
    return Stated(tokenizer=tokenizer, stated_by="tokenizer_config.json")


def _pixels(path: pathlib.Path, content: Mapping[str, Any]) -> Stated:
    content = _group(path, content, "image_processor") or content
    if content.get("do_normalize") is False:
        return Stated(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0), stated_by=path.name)
    mean, std = (_rgb(path, key, content[key]) if key in content else None for key in ("image_mean", "image_std"))
    return Stated(pixel_mean=mean, pixel_std=std, stated_by=path.name)


def _rgb(path: pathlib.Path, key: str, value: Any) -> Pixel:
    values = [value] * 3 if isinstance(value, int | float) else value
    numbers = isinstance(values, list | tuple) and len(values) == 3 and all(type(v) in (int, float) for v in values)
    if not numbers or not all(-1 < v < 2 for v in values) or ("std" in key and min(values) <= 0):
        raise CheckpointError(f"{path.parent}: {key} in {path.name} is {value!r}, not three numbers of RGB in 0..1")
    return (float(values[0]), float(values[1]), float(values[2]))


def _open_clip(path: pathlib.Path, content: Mapping[str, Any]) -> Beside:
    model = _group(path, content, "model_cfg") or content
    image, text = _group(path, model, "vision_cfg"), _group(path, model, "text_cfg")
    of_timm = others.of_timm(image)
    if (name := image.get("timm_model_name")) and not of_timm:
        raise _other_kind(path, f"the image tower {name} of timm")
    if name := text.get("hf_model_name"):
        raise _other_kind(path, f"the text tower {name}")
    if isinstance(image.get("layers"), list):
        raise _other_kind(path, "a ResNet")
    for group in (model, image, text):
        for key, value in group.items():
            usual = _USUAL.get(key)
            if of_timm and key in ("custom_text", "timm_model_name"):
                continue
            if key not in _FREE and value and value != usual and not (isinstance(usual, tuple) and value in usual):
                raise _other_kind(path, f"a model with {key} = {str(value)[:80]}")

    def whole(group: Mapping[str, Any], key: str, default: int) -> int:
        return _whole(path, key, group.get(key, default), key.replace("_", " "))

    width, head = whole(image, "width", 768), whole(image, "head_width", 64)
    sizes = {
        "image": {"layers": whole(image, "layers", 12), "heads": max(width // head, 1), "width": width},
        "text": {key: whole(text, key, default) for key, default in (("layers", 12), ("heads", 8), ("width", 512))},
    }
    if of_timm:  # its sizes show in its tensors
        sizes = {}
    pixels = _group(path, content, "preprocess_cfg")
    mean, std = _rgb(path, "mean", pixels.get("mean", OPENAI_MEAN)), _rgb(path, "std", pixels.get("std", OPENAI_STD))
    eps = {_plain(_group(path, group, "norm_kwargs").get("eps", 1e-5)) for group in (image, text)}
    silent = "quick_gelu" not in model and not of_timm
    by = f"open_clip's default, which {path.name} leaves as it is" if silent else path.name
    activation = Stated("quick_gelu" if model.get("quick_gelu") else "gelu", stated_by=by, yields=silent)
    facts = Stated(None, mean, std, tokenizer=_open_clip_tokenizer(path, text), stated_by=path.name)
    return Beside((activation, *(dataclasses.replace(facts, eps=value) for value in eps)), sizes)


def _open_clip_tokenizer(path: pathlib.Path, text: Mapping[str, Any]) -> str:
    options = dict(_group(path, text, "tokenizer_kwargs"))
    if options.get("clean") == "lower":  # the default
        del options["clean"]
    name = str(text.get("hf_tokenizer_name") or "")
    if (name and not name.startswith("openai/clip-")) or options:
        return f"{name or CLIP_TOKENIZER}{f' with {options}' if options else ''}"
    return CLIP_TOKENIZER
