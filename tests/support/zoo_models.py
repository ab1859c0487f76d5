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

OF_LAION = "open_clip_pytorch_model.bin"  # what the table leaves open

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


def config_of(entry: Entry) -> ModelConfig:
    """The stand-in's configuration, with the activation and the pixels that the table states."""
    from ahs_seg_jax.checkpoints.formats.stated import Stated, agreed, applied

    stated = Stated(entry.activation, entry.pixel_mean, entry.pixel_std)
    return applied(MODEL, agreed([stated], entry.name))


def params_of(layout: str) -> dict[str, Any]:
    """Random values for all that a file of the layout holds."""
    random = np.random.default_rng(7)
    shapes = target_shapes(entries(layout, MODEL))
    leaves = {path: random.normal(0, 0.05, shape).astype(np.float32) for path, shape in shapes.items()}
    leaves |= {path: 1 + leaf for path, leaf in leaves.items() if path.endswith("/scale")}
    return parameters.unflatten(leaves)


def layout_of(entry: Entry) -> str:
    """The layout of its weights."""
    return entry.layout or "openai_clip"


def add_to(hub: FakeHub, entry: Entry, folder: pathlib.Path) -> str:
    """Puts a stand-in on the hub, beside what its repository holds already; returns the commit."""
    layout, name = layout_of(entry), entry.file or OF_LAION
    path = writers.write(folder / entry.name / name, layout, MODEL, params_of(layout))
    files = {"README.md": b"---\n---\n", name: without_our_configuration(path)}
    if layout == "hf_clip":
        files |= _of_transformers(entry)
    elif layout == "openai_clip":
        files |= _of_open_clip(entry)
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
    if "metaclip" in entry.name:  # its configurations leave the activation to the library's default
        for tower in ("text_config", "vision_config"):
            del config[tower]["hidden_act"]
    pixels = {"image_mean": entry.pixel_mean, "image_std": entry.pixel_std}
    return {"config.json": json.dumps(config).encode(), "preprocessor_config.json": json.dumps(pixels).encode()}


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
