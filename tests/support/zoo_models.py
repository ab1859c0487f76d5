"""Stand-ins of the models of the zoo: each in the layout, the container and the company of files that it has there."""

import json
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import entries
from ahs_seg_jax.checkpoints.zoo.table import Entry
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import AggregatorConfig, ModelConfig
from tests.support.fake_hub import FakeHub
from tests.support.small import changed, small_model
from tests.support.tokenizer_files import GEMMA, XLM_V, write_tokenizer

# What the table leaves open.
OF_LAION, OF_TIMM, OF_TRANSFORMERS = "open_clip_pytorch_model.bin", "open_clip_model.safetensors", "model.safetensors"

# A file shows these sizes by itself: heads have 64 channels, and what no shape tells is as published.
MODEL = changed(
    small_model(adaptation="none", mh_fpn=False, dc_hsp=False, init="torch"),
    image__layers=3,
    image__width=64,
    image__heads=1,
    image__patch_size=4,
    image__crop=96,
    image__pretrained_grid=5,
    text__width=64,
    text__heads=1,
    text__vocab_size=49408,
    text__context=77,
    embed_dim=16,
    block_size=128,
    dc_hsp_rank=64,
    aggregator=AggregatorConfig(),
)


# The other towers, of the same sizes where these can be: SigLIP's crop is its own, and its features are as wide as it.
_BY_KIND = {
    "clip": MODEL,
    "metaclip2": changed(MODEL, text__tower="metaclip2", text__vocab_size=33, text__tokenizer="tokenizer.json"),
    "pecore": changed(MODEL, image__tower="pe", text__context=32),
    "eva02": changed(MODEL, image__tower="eva", image__mlp_width=43, image__activation="silu"),
    "siglip": changed(
        MODEL,
        image__tower="siglip",
        image__crop=20,
        text__tower="siglip",
        text__vocab_size=33,
        text__context=64,
        text__tokenizer="tokenizer.json",
        embed_dim=64,
        aggregator__window=5,
    ),
}


def kind_of(entry: Entry) -> str:
    """Whose towers an entry has: "clip", "metaclip2", "pecore", "eva02" or "siglip"."""
    return next((kind for kind in _BY_KIND if kind in entry.name.replace("-", "") and kind != "clip"), "clip")


def config_of(entry: Entry) -> ModelConfig:
    """The stand-in's configuration, with the activation and the pixels that the table states."""
    from ahs_seg_jax.checkpoints.formats.stated import Stated, agreed, applied

    stated = Stated(entry.activation, entry.pixel_mean, entry.pixel_std)
    return applied(_BY_KIND[kind_of(entry)], agreed([stated], entry.name))


def params_of(entry: Entry) -> dict[str, Any]:
    """Random values for all that the entry's file holds."""
    random = np.random.default_rng(7)
    shapes = target_shapes(entries(layout_of(entry), _BY_KIND[kind_of(entry)]))
    leaves = {path: random.normal(0, 0.05, shape).astype(np.float32) for path, shape in shapes.items()}
    leaves |= {path: 1 + leaf for path, leaf in leaves.items() if path.endswith("/scale")}
    return parameters.unflatten(leaves)


def layout_of(entry: Entry) -> str:
    """The layout of its weights."""
    return entry.layout or "openai_clip"


def add_to(hub: FakeHub, entry: Entry, folder: pathlib.Path) -> str:
    """Puts a stand-in on the hub, beside what its repository holds already; returns the commit."""
    kind, layout = kind_of(entry), layout_of(entry)
    name = entry.file or {"openai_clip": OF_LAION, "eva02_open_clip": OF_TIMM}.get(layout, OF_TRANSFORMERS)
    (folder / entry.name).mkdir(parents=True, exist_ok=True)
    model = _BY_KIND[kind]
    if model.text.tokenizer != "clip":
        own = write_tokenizer(folder / entry.name / "tokenizer.json", XLM_V if kind == "metaclip2" else GEMMA)
        model = changed(model, text__tokenizer=own)
    path = writers.write(folder / entry.name / name, layout, model, params_of(entry))
    files = {"README.md": b"---\n---\n", name: without_our_configuration(path)}
    if model.text.tokenizer != "clip":
        files["tokenizer.json"] = (folder / entry.name / "tokenizer.json").read_bytes()
    if kind == "siglip":
        files |= _of_siglip(entry)
    elif layout == "hf_clip":
        files |= _of_transformers(entry)
    elif layout == "openai_clip":
        files |= _of_open_clip(entry)
    elif kind == "eva02":
        files |= _of_timm(entry)
    place = entry.hub_name.place
    before = hub.repositories.get(place)
    if before:
        files = before.commits[before.tags["main"]] | files
    return hub.add(place, files).tags["main"]


def without_our_configuration(path: pathlib.Path) -> bytes:
    """The bytes of a file as other programs write it: without the configuration that ours add."""
    from ahs_seg_jax.checkpoints.formats import readers

    if path.suffix == ".safetensors":
        import safetensors.numpy

        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return safetensors.numpy.save(tensors, {"format": "pt"})
    import io

    import torch

    content = torch.load(path, weights_only=True)
    content.pop(readers.CONFIG_KEY, None)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _of_transformers(entry: Entry) -> dict[str, bytes]:
    config = writers.hf_config(config_of(entry))
    if entry.name.endswith("-metaclip"):  # its configurations leave the activation to the library's default
        for tower in ("text_config", "vision_config"):
            del config[tower]["hidden_act"]
    pixels = {"image_mean": entry.pixel_mean, "image_std": entry.pixel_std}
    files = {"config.json": config, "preprocessor_config.json": pixels}
    if kind_of(entry) == "metaclip2":
        files["tokenizer_config.json"] = {"tokenizer_class": "XLMRobertaTokenizer"}
    return {name: json.dumps(content).encode() for name, content in files.items()}


def _of_siglip(entry: Entry) -> dict[str, bytes]:
    """What the repositories of google/siglip2-* state; their configuration leaves out what is transformers' default."""
    model = config_of(entry)
    towers = {
        f"{name}_config": {
            "hidden_size": tower.width,
            "intermediate_size": 4 * tower.width,
            "model_type": f"siglip_{name}_model",
            "num_attention_heads": tower.heads,
            "num_hidden_layers": tower.layers,
        }
        for name, tower in (("vision", model.image), ("text", model.text))
    }
    files = {
        "config.json": {"architectures": ["SiglipModel"], "model_type": "siglip", **towers},
        "preprocessor_config.json": {"image_mean": entry.pixel_mean, "image_std": entry.pixel_std, "resample": 2},
        "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer"},
    }
    return {name: json.dumps(content).encode() for name, content in files.items()}


def _of_open_clip(entry: Entry) -> dict[str, bytes]:
    image, text = MODEL.image, MODEL.text
    model: dict[str, Any] = {
        "embed_dim": MODEL.embed_dim,
        "vision_cfg": {
            "image_size": image.pretrained_grid * image.patch_size,
            "layers": image.layers,
            "width": image.width,
            "patch_size": image.patch_size,
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
    if entry.activation == "quick_gelu" and entry.name != "clip-vitb16-dfn2b":  # whose configuration leaves it out
        model["quick_gelu"] = True
    content = {"model_cfg": model, "preprocess_cfg": {"mean": entry.pixel_mean, "std": entry.pixel_std}}
    return {"open_clip_config.json": json.dumps(content).encode(), "tokenizer.json": b"{}"}


def _of_timm(entry: Entry) -> dict[str, bytes]:
    """open_clip's configuration of a model with an image tower of timm, and timm's own, of the tower alone."""
    image, text = MODEL.image, MODEL.text
    name = "eva02_large_patch14_clip_336" if "vitl14" in entry.name else "eva02_base_patch16_clip_224"
    model = {
        "embed_dim": MODEL.embed_dim,
        "vision_cfg": {
            "image_size": image.pretrained_grid * image.patch_size,
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
        "custom_text": True,
    }
    content = {"model_cfg": model, "preprocess_cfg": {"mean": entry.pixel_mean, "std": entry.pixel_std}}
    return {
        "open_clip_config.json": json.dumps(content).encode(),
        "config.json": json.dumps({"architecture": name, "num_classes": MODEL.embed_dim}).encode(),
        "model.safetensors": b"an image tower alone",
    }
