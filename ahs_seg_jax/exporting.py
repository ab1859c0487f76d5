"""Export: the model as StableHLO that runs on CPU, CUDA and TPU without this program.

A folder holds `segment.stablehlo` (weights, images and text embeddings to logits), `encode_text.stablehlo` (weights and
token ids to text embeddings) unless the vocabulary is baked in, `weights.safetensors`, `manifest.json` and `loader.py`,
which needs jax, numpy and safetensors alone. The number of images and, unless baked in, of classes is free. All classes
take part: there is no cut to the most correlated ones.

Axes: b image, t class, p prompt, l token, e joint embedding, g side of the logits.
"""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export as jax_export

from ahs_seg_jax import programs
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints import writers
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_PROMPTS = 1024  # of one call of encode_text: the text tower takes another way with more
TEXT = "baked/text"  # embeddings of the baked vocabulary, among the weights
WHAT_IT_TAKES = {
    "images": "float32 [b, s, s, 3], RGB 0..255, squashed to the square of `side` pixels (bilinear, no anti-aliasing)",
    "tokens": f"int32 [t, p, l], CLIP's token ids of at most {MOST_PROMPTS} prompts, 0-padded to `context`",
    "text": "float32 [t, p, e], what encode_text gives for tokens",
    "logits": "float32 [b, t, g, g]; a class's probability at a position is the sigmoid of its logit",
}


def export(
    model: str | os.PathLike[str] | Segmenter, output: str | os.PathLike[str], names: Sequence[str] | None
) -> None:
    """Writes the folder `output`, all or nothing. `names`: a vocabulary to bake in; None leaves it an input.

    Raises CheckpointError if the folder exists or the model cannot be read, ValueError for names that cannot be used.
    """
    path = pathlib.Path(output)
    writers.refuse_existing(path)
    segmenter = model if isinstance(model, Segmenter) else Segmenter.from_pretrained(model)
    config = segmenter.model.config
    leaves = {name: np.asarray(leaf) for name, leaf in manifests.flatten(segmenter.params)}
    if names is not None:
        vocabulary = Vocabulary(tuple(names), segmenter.templates)
        leaves[TEXT] = segmenter.encode_prompts(vocabulary)
        leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("clip/text/")}
    written = {"segment": _segment(segmenter.model, leaves)}
    if names is None:
        written["encode_text"] = _encode_text(segmenter.model, leaves)
    about = {
        "inputs_and_outputs": WHAT_IT_TAKES,
        "side": config.image.crop,
        "context": config.text.context,
        "prompts": config.aggregator.prompts,
        "templates": list(segmenter.templates),
        "names": None if names is None else list(names),
        "platforms": list(PLATFORMS),
        "config": manifests.config_to_json(config),
        "versions": versions(),
    }
    with writers.replacing(path) as partial:
        partial.mkdir()
        for name, program in written.items():
            (partial / f"{name}.stablehlo").write_bytes(program)
        safetensors.numpy.save_file(leaves, partial / "weights.safetensors")
        (partial / "manifest.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (partial / "loader.py").write_text(loader_text(), "utf-8")


def loader_text() -> str:
    """The loader that goes with every export."""
    return importlib.resources.files("ahs_seg_jax.data").joinpath("export_loader.py.txt").read_text("utf-8")


def _segment(model: AHSSeg, leaves: dict[str, np.ndarray]) -> bytes:
    baked = leaves.get(TEXT)

    def run(weights: dict[str, jax.Array], images: jax.Array, text: jax.Array) -> jax.Array:
        params = manifests.unflatten({name: leaf for name, leaf in weights.items() if name != TEXT})
        return programs.segment_all(model, params, images, text)

    side, prompts, width = model.config.image.crop, model.config.aggregator.prompts, model.config.embed_dim
    if baked is None:
        b, t = jax_export.symbolic_shape("b, t")
        text = jax.ShapeDtypeStruct((t, prompts, width), jnp.float32)
        return _serialised(run, leaves, jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32), text)
    (b,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32)
    return _serialised(lambda weights, images: run(weights, images, weights[TEXT]), leaves, images)


def _encode_text(model: AHSSeg, leaves: dict[str, np.ndarray]) -> bytes:
    prompts = model.config.aggregator.prompts
    (t,) = jax_export.symbolic_shape("t", constraints=[f"{prompts}*t <= {MOST_PROMPTS}"])
    tokens = jax.ShapeDtypeStruct((t, prompts, model.config.text.context), jnp.int32)

    def run(weights: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        return programs.encode_text(model, manifests.unflatten(weights), tokens)

    return _serialised(run, leaves, tokens)


def _serialised(function: Any, leaves: dict[str, np.ndarray], *inputs: jax.ShapeDtypeStruct) -> bytes:
    weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    program = jax_export.export(jax.jit(function), platforms=PLATFORMS)(weights, *inputs)
    try:
        return bytes(program.serialize())
    except ImportError as error:  # JAX writes programs by flatbuffers, which it does not install
        raise ImportError("exporting needs flatbuffers: pip install 'ahs_seg_jax[export]'") from error
