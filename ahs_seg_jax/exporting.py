"""Export: the model as StableHLO that runs on CPU, CUDA and TPU without this program, or as ONNX.

A folder of StableHLO holds `segment.stablehlo` (weights, images and text embeddings to logits), `encode_text.stablehlo` (weights and
token ids to text embeddings) unless the vocabulary is baked in, `weights.safetensors`, `manifest.json` and `loader.py`,
which needs jax, numpy and safetensors alone. The number of images and, unless baked in, of classes is free. All classes
take part: there is no cut to the most correlated ones. A folder of ONNX (float32, extra `onnx`) holds `segment.onnx` and
`encode_text.onnx` with the same inputs and outputs and the weights inside, and `manifest.json`.

Axes: b image, t class, p prompt, l token, e joint embedding, g side of the logits.
"""

import dataclasses
import importlib.resources
import json
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

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

Format: TypeAlias = Literal["stablehlo", "onnx"]
PLATFORMS = ("cpu", "cuda", "tpu")
MOST_PROMPTS = 1024  # of one call of encode_text: the text tower takes another way with more
TEXT = "baked/text"  # embeddings of the baked vocabulary, among the weights
WHAT_IT_TAKES = {
    "images": "float32 [b, s, s, 3], RGB 0..255, squashed to the square of `side` pixels (bilinear, no anti-aliasing)",
    "tokens": f"int32 [t, p, l], CLIP's token ids of at most {MOST_PROMPTS} prompts (ONNX: t = 1), 0-padded to `context`",
    "text": "float32 [t, p, e], what encode_text gives for tokens",
    "logits": "float32 [b, t, g, g]; a class's probability at a position is the sigmoid of its logit",
}


def export(
    model: str | os.PathLike[str] | Segmenter,
    output: str | os.PathLike[str],
    names: Sequence[str] | None,
    file_format: Format = "stablehlo",
) -> None:
    """Writes the folder `output`, all or nothing. `names`: a vocabulary to bake in; None leaves it an input.

    Raises CheckpointError if the folder exists or the model cannot be read, ValueError for names that cannot be used,
    ImportError, which says what to install, without the library of the format.
    """
    path = pathlib.Path(output)
    writers.refuse_existing(path)
    to_onnx = _onnx_exporter() if file_format == "onnx" else None
    segmenter = model if isinstance(model, Segmenter) else Segmenter.from_pretrained(model)
    config = segmenter.model.config
    leaves = {name: np.asarray(leaf) for name, leaf in manifests.flatten(segmenter.params)}
    if names is not None:
        vocabulary = Vocabulary(tuple(names), segmenter.templates)
        leaves[TEXT] = segmenter.encode_prompts(vocabulary)
        leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("clip/text/")}
    found = _programs(segmenter.model, baked=names is not None)
    written = {name: to_onnx(p, leaves) if to_onnx else _stablehlo(p, leaves) for name, p in found.items()}
    about = {
        "inputs_and_outputs": WHAT_IT_TAKES,
        "side": config.image.crop,
        "context": config.text.context,
        "prompts": config.aggregator.prompts,
        "templates": list(segmenter.templates),
        "names": None if names is None else list(names),
        "format": file_format,
        "platforms": [] if to_onnx else list(PLATFORMS),
        "config": manifests.config_to_json(config),
        "versions": versions(),
    }
    with writers.replacing(path) as partial:
        partial.mkdir()
        for name, program in written.items():
            (partial / f"{name}.{file_format}").write_bytes(program)
        if not to_onnx:
            safetensors.numpy.save_file(leaves, partial / "weights.safetensors")
            (partial / "loader.py").write_text(loader_text(), "utf-8")
        (partial / "manifest.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")


def loader_text() -> str:
    """The loader that goes with every export."""
    return importlib.resources.files("ahs_seg_jax.data").joinpath("export_loader.py.txt").read_text("utf-8")


@dataclasses.dataclass(frozen=True)
class _Program:
    """A function of the weights and of named inputs, whose dimensions are numbers or names."""

    run: Callable[..., jax.Array]
    inputs: dict[str, tuple[tuple[int | str, ...], Any]]  # name -> dimensions, dtype
    output: str
    constraints: tuple[str, ...] = ()  # on the named dimensions


def _programs(model: AHSSeg, baked: bool) -> dict[str, _Program]:
    """What is written, by file name."""
    model = model.clone(tpu=False)  # for any platform, and any number of images and words
    prompts, context, side = model.config.aggregator.prompts, model.config.text.context, model.config.image.crop

    def segment(weights: dict[str, jax.Array], images: jax.Array, text: jax.Array | None = None) -> jax.Array:
        params = manifests.unflatten({name: leaf for name, leaf in weights.items() if name != TEXT})
        return programs.segment_all(model, params, images, weights[TEXT] if text is None else text)

    def encode_text(weights: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        return programs.encode_text(model, manifests.unflatten(weights), tokens)

    images = ("b", side, side, 3), jnp.float32
    if baked:
        return {"segment": _Program(segment, {"images": images}, "logits")}
    text, tokens = (("t", prompts, model.config.embed_dim), jnp.float32), (("t", prompts, context), jnp.int32)
    few = (f"{prompts}*t <= {MOST_PROMPTS}",)
    return {
        "segment": _Program(segment, {"images": images, "text": text}, "logits"),
        "encode_text": _Program(encode_text, {"tokens": tokens}, "text", few),
    }


def _stablehlo(program: _Program, leaves: dict[str, np.ndarray]) -> bytes:
    weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    scope = jax_export.SymbolicScope(program.constraints)
    symbolic = lambda shape: jax_export.symbolic_shape(", ".join(map(str, shape)), scope=scope)
    inputs = [jax.ShapeDtypeStruct(symbolic(shape), dtype) for shape, dtype in program.inputs.values()]
    exported = jax_export.export(jax.jit(program.run), platforms=PLATFORMS)(weights, *inputs)
    try:
        return bytes(exported.serialize())
    except ImportError as error:  # JAX writes programs by flatbuffers, which it does not install
        raise ImportError("exporting needs flatbuffers: pip install 'ahs_seg_jax[export]'") from error


def _onnx_exporter() -> Callable[[_Program, dict[str, np.ndarray]], bytes]:
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("exporting as ONNX needs jax2onnx: pip install 'ahs_seg_jax[onnx]'") from error

    def convert(program: _Program, leaves: dict[str, np.ndarray]) -> bytes:
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of every shape that is computed
        # jax2onnx takes no constraints on dimensions, so what needs them takes one class at a time.
        fixed = lambda shape: (1, *shape[1:]) if program.constraints else shape
        inputs = [jax.ShapeDtypeStruct(fixed(shape), dtype) for shape, dtype in program.inputs.values()]
        weights = jax.tree.map(jnp.asarray, leaves)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it uses what JAX will drop
            converted = jax2onnx.to_onnx(
                lambda *arrays: program.run(weights, *arrays),
                inputs,
                input_names=list(program.inputs),
                output_names=[program.output],
            )
        return converted.SerializeToString()

    return convert
