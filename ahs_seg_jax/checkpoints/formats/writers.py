"""Files of other programs' layouts, written one tensor at a time where the format allows it, and all or nothing."""

import itertools
import json
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints import hashes, words
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import beside, convert, readers
from ahs_seg_jax.checkpoints.formats.tensor_file import CONFIG_KEY
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.storage import writing

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
NESTED_LAYOUTS = ("ahs_seg", "catseg")  # torch files with the tensors under "model"; the others are flat
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npz")


def check_destination(destination: str | os.PathLike[str], layout: str) -> None:
    """Raises what `write` would raise about the destination, before anything long is done."""
    path = pathlib.Path(destination)
    writing.refuse_existing(path)
    if path.suffix not in SUFFIXES and layout != "hf_clip":
        raise CheckpointError(f"{path}: a {layout} file ends with one of {', '.join(SUFFIXES)}")
    if path.suffix in TORCH_SUFFIXES:
        _import_torch(path)


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"writing {path.name} needs torch: pip install 'ahs_seg_jax[convert]'; .safetensors and .npz need none"
        ) from error
    return torch


def write(
    destination: str | os.PathLike[str],
    layout: str,
    config: ModelConfig,
    params: Mapping[str, Any],
    manifest: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes parameters as another program's file: `.pth`, `.pt`, `.bin` (torch), `.safetensors` or `.npz`.

    `hf_clip` without such a suffix is written as a directory with config.json, preprocessor_config.json and
    model.safetensors. The model's configuration is stored along where the format has a place for it that the other
    programs ignore. A model whose words need a tokenizer.json gets it into the directory, or beside the file.
    `manifest`, if given, goes into that directory, or beside the file as `<name>.manifest.json`.

    Raises:
      CheckpointError: the destination exists, the suffix is none of these, torch is needed and absent, or the layout
        cannot hold the parameters.
    """
    path = pathlib.Path(destination)
    check_destination(path, layout)
    with writing.replacing(path) as partial:
        if path.suffix not in SUFFIXES:
            partial.mkdir()
            for name, content in (("config", hf_config(config)), ("preprocessor_config", hf_pixels(config.image))):
                (partial / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
            words.copy(config, partial)
            _write_file(partial / "model.safetensors", layout, config, params)
            _write_manifest(partial / "manifest.json", manifest)
        else:
            words.copy(config, path.parent)
            _write_file(partial, layout, config, params)
            _write_manifest(path.with_name(f"{path.name}.manifest.json"), manifest)
    return path


def _write_manifest(path: pathlib.Path, manifest: Mapping[str, Any] | None) -> None:
    if manifest is not None:
        path.write_text(json.dumps(manifest, indent=2) + "\n")


def _write_file(path: pathlib.Path, layout: str, config: ModelConfig, params: Mapping[str, Any]) -> None:
    tensors = convert.state_dict(layout, config, params)
    written = convert.written_config(layout, config)
    stored = json.dumps(manifests.config_to_json(words.portable(written)))
    if path.suffix in TORCH_SUFFIXES:
        _write_torch(path, tensors, stored if layout in NESTED_LAYOUTS else None)
    elif path.suffix == ".safetensors":
        names_and_shapes = convert.tensor_names(layout, written)
        digests = {name: hashes.digest(value) for names, value in tensors for name in names}
        checks = hashes.sealed({hashes.HASHES: digests, CONFIG_KEY: stored})
        tensors = convert.state_dict(layout, config, params)  # made twice: the header comes first
        _write_safetensors(path, names_and_shapes, tensors, {CONFIG_KEY: stored, readers.HASHES_KEY: checks})
    else:
        _write_npz(path, tensors, stored)


def _write_torch(path: pathlib.Path, tensors: convert.Tensors, stored: str | None) -> None:
    torch = _import_torch(path)
    state = {}
    for names, value in tensors:
        tensor = torch.from_numpy(value)
        state.update(dict.fromkeys(names, tensor))  # aliases share one storage in the file, as in the published ones
    torch.save(state if stored is None else {"model": state, CONFIG_KEY: stored}, path)


def _write_safetensors(
    path: pathlib.Path,
    names_and_shapes: list[tuple[tuple[str, ...], tuple[int, ...]]],
    tensors: convert.Tensors,
    about: Mapping[str, Any],
) -> None:
    # The format is a length, a JSON header and the raw tensors. The library's writer would hold a second copy of all.
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | texts}
    end = 0
    for names, shape in names_and_shapes:
        for name in names:
            start, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for names, tensor in tensors:
            for _ in names:
                file.write(np.asarray(tensor, "<f4").data)


def _write_npz(path: pathlib.Path, tensors: convert.Tensors, stored: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        arrays = ((name, tensor) for names, tensor in tensors for name in names)
        for name, array in itertools.chain([(CONFIG_KEY, np.asarray(stored))], arrays):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of a Hugging Face CLIPModel of these sizes, or MetaClip2Model."""
    common = {"layer_norm_eps": 1e-5, "projection_dim": config.embed_dim}
    image, text = config.image, config.text
    name, kind = ("CLIPModel", "clip") if text.tower == "clip" else ("MetaClip2Model", beside.METACLIP2)
    # OpenAI's table ends with the start and the end token.
    start, end = (text.vocab_size - 2, text.vocab_size - 1) if kind == "clip" else (0, beside.XLM_V_END)
    return {
        "architectures": [name],
        "model_type": kind,
        "projection_dim": config.embed_dim,
        "text_config": {
            **common,
            **_hf_tower(text),
            "model_type": f"{kind}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context,
            "bos_token_id": start,
            "eos_token_id": end,
        },
        "vision_config": {
            **common,
            **_hf_tower(image),
            "model_type": f"{kind}_vision_model",
            "image_size": image.pretrained_grid * image.patch_size,
            "patch_size": image.patch_size,
        },
    }


def hf_pixels(config: ImageTowerConfig) -> dict[str, Any]:
    """preprocessor_config.json of a Hugging Face CLIPImageProcessor for this tower."""
    side = config.pretrained_grid * config.patch_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [value / 255 for value in config.pixel_mean],
        "image_std": [value / 255 for value in config.pixel_std],
    }


def _hf_tower(config: ImageTowerConfig | TextTowerConfig) -> dict[str, Any]:
    return {
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": config.inner_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
    }
