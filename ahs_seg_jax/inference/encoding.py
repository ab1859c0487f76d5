"""Text embeddings of a vocabulary, and a model made ready for inference."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.models import orthogonal
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.vocabulary import Vocabulary

PROMPTS_AT_ONCE = 256  # prompts that the text tower encodes together


def merged(model: Any, params: Any) -> tuple[Any, Any]:
    """The model and its parameters with the rotations folded into the weights, so that they cost nothing per image."""
    config = model.config
    if config.adaptation == "none":
        return model, params
    return model.clone(config=config.replace(adaptation="none")), _merge(config, params)


@jax.jit
def listed(params: Any) -> Any:
    """Parameters of a merged model with those of each block of the image tower by itself: `towers.transformer.Blocks`.

    XLA copies a layer's part of a stacked array before it uses it. One picture takes 3 % longer with these copies.
    """
    image = dict(params["clip"]["image"])
    count = jax.tree.leaves(image["blocks"])[0].shape[0]
    image["blocks"] = {str(i): jax.tree.map(lambda a, i=i: a[i], image["blocks"]) for i in range(count)}
    return dict(params) | {"clip": dict(params["clip"]) | {"image": image}}


def stacked(params: Any) -> dict[str, Any]:
    """The inverse of `listed`: parameters as the model has them, in host memory. Others stay as they are."""
    params = jax.tree.map(np.asarray, params)
    image = dict(params["clip"]["image"])
    if "0" in image["blocks"]:
        blocks = [image["blocks"][str(i)] for i in range(len(image["blocks"]))]
        image["blocks"] = jax.tree.map(lambda *layers: np.stack(layers), *blocks)
    return dict(params) | {"clip": dict(params["clip"]) | {"image": image}}


@functools.partial(jax.jit, static_argnames=("config",))
def _merge(config: ModelConfig, params: Any) -> Any:
    return orthogonal.merge(config, params)[1]


def _encode_tokens(model: Any, params: Any, tokens: jax.Array) -> jax.Array:
    return model.apply({"params": params}, tokens, method="encode_text")


_encode_text = Compiled(_encode_tokens, "encode_text", static=("model",))


def encode_vocabulary(model: Any, params: Any, vocabulary: Vocabulary) -> jax.Array:
    """Text embeddings float32 `[t, p, e]` of every class.

    For a model with one prompt channel, several prompts become their average on the sphere (`Vocabulary.pool`).

    Raises ValueError when the model has several prompt channels and the vocabulary another number of prompts.
    """
    tokens = vocabulary.tokens(model.config.text.context, model.config.text.tokenizer)
    count, prompts, _ = tokens.shape
    channels = model.config.aggregator.prompts
    if channels not in (1, prompts):
        raise ValueError(
            f"the vocabulary gives {prompts} prompt(s) per class but model.aggregator.prompts is {channels}; "
            f"use {channels} templates, or a model with one prompt channel, which averages them"
        )
    block = min(max(1, PROMPTS_AT_ONCE // prompts), buckets.bucket(count, buckets.CLASS_BUCKETS))
    tokens = buckets.padded(tokens, -(-count // block) * block)
    parts = [_encode_text(model, params, tokens[start : start + block]) for start in range(0, len(tokens), block)]
    text = jnp.concatenate(parts)[:count]
    return vocabulary.pool(text) if channels == 1 else text


def padded_text(text: jax.Array, multiple: int) -> tuple[jax.Array, np.ndarray]:
    """Text `[T, p, e]`, padded to a multiple with copies of the last class, and the mask `[T]` of the real classes."""
    count = len(text)
    padding = [(0, -count % multiple), (0, 0), (0, 0)]
    return jnp.pad(text, padding, mode="edge"), np.arange(count + padding[0][1]) < count
