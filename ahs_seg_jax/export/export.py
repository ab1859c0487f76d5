"""Export: the model as StableHLO that runs on CPU, CUDA and TPU without this program, or as ONNX.

A folder of StableHLO holds `segment.stablehlo` (from weights, images and text embeddings to logits),
`encode_text.stablehlo` (from weights and token ids to text embeddings) unless the vocabulary is baked in,
`weights.safetensors`, `manifest.json` and `loader.py`, which needs jax, numpy and safetensors alone. The number of
images is free, and so is the number of classes unless the vocabulary is baked in. All classes take part: none is cut.
A folder of ONNX (float32, extra `onnx`) holds `segment.onnx` and `encode_text.onnx` with the same
inputs and outputs and the weights inside, and `manifest.json`.

Axes: b image, t class, p prompt, l token, e joint embedding, g side of the logits.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import safetensors.numpy

from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints import words
from ahs_seg_jax.export import onnx, programs, stablehlo
from ahs_seg_jax.models import parameters
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.storage import writing
from ahs_seg_jax.versions import versions

Format: TypeAlias = Literal["stablehlo", "onnx"]
WHAT_IT_TAKES = {
    "images": "float32 [b, s, s, 3], RGB 0..255, squashed to the square of `side` pixels (bilinear, no anti-aliasing)",
    "tokens": (
        f"int32 [t, p, l], token ids of at most {programs.MOST_PROMPTS} prompts (ONNX: t = 1), by CLIP's tokenizer or "
        "the tokenizer.json here (start and end token as `config.text` says), padded with 0 to `context`"
    ),
    "text": "float32 [t, p, e], what encode_text gives for tokens",
    "logits": "float32 [b, t, g, g]; a class's probability at a position is the sigmoid of its logit",
}
OF_TRAINING_FREE = {
    "images": "float32 [b, s, s, 3], RGB 0..255, windows of `side` pixels of an image that keeps its proportions",
    "text": "float32 [t, 1, e] of unit length: for each query, the mean over `templates` of what encode_text gives",
    "logits": (
        "float32 [b, t, g, g], cosines: to be resized to the windows and averaged where they overlap; probabilities "
        "are the softmax over all queries of `logit_scale` times them"
    ),
}


def export(
    model: str | os.PathLike[str] | Segmenter,
    output: str | os.PathLike[str],
    names: Sequence[str] | None,
    file_format: Format = "stablehlo",
    method: str | None = None,
    activation: str | None = None,
) -> None:
    """Writes the folder `output`, all or nothing. `names`: a vocabulary to bake in; None leaves it an input.
    `method` and `activation`, for a model that is not a Segmenter yet, are as `Segmenter.from_pretrained` takes them.

    Raises CheckpointError if the folder exists or the model cannot be read, ValueError for names that cannot be used,
    ImportError, which says what to install, without the library of the format.
    """
    path = pathlib.Path(output)
    writing.refuse_existing(path)
    to_onnx = onnx.onnx_exporter() if file_format == "onnx" else None
    if isinstance(model, Segmenter):
        segmenter = model
    else:
        segmenter = Segmenter.from_pretrained(model, method=method, activation=activation)
    config, engine = segmenter.config, segmenter.engine
    leaves = {name: np.asarray(leaf) for name, leaf in parameters.flatten(engine.params)}
    if names is not None:
        vocabulary = segmenter.as_vocabulary(names)
        leaves[programs.TEXT] = segmenter.encode_prompts(vocabulary)
        leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("clip/text/")}
    found = programs.programs(engine.model, baked=names is not None)
    written = {name: to_onnx(p, leaves) if to_onnx else stablehlo.stablehlo(p, leaves) for name, p in found.items()}
    about = {
        "inputs_and_outputs": WHAT_IT_TAKES | (OF_TRAINING_FREE if segmenter.training_free else {}),
        "method": segmenter.method,
        "training_free": segmenter.training_free and dataclasses.asdict(segmenter.training_free),
        "side": engine.head.side,
        "context": config.text.context,
        "prompts": programs.prompt_channels(engine.model),
        "templates": list(segmenter.templates),
        "names": None if names is None else list(names),
        "format": file_format,
        "platforms": [] if to_onnx else list(stablehlo.PLATFORMS),
        "config": manifests.config_to_json(words.portable(config)),
        "versions": versions(),
        "loads_with": None if to_onnx else stablehlo.loads_with(),
    }
    with writing.replacing(path) as partial:
        partial.mkdir()
        words.copy(config, partial)
        for name, program in written.items():
            (partial / f"{name}.{file_format}").write_bytes(program)
        if not to_onnx:
            safetensors.numpy.save_file(leaves, partial / "weights.safetensors")
            (partial / "loader.py").write_text(stablehlo.loader_text(), "utf-8")
        (partial / "manifest.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
