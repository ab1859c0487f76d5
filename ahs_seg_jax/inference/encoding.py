"""Text embeddings of a vocabulary, and a model made ready for inference."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class EncodedVocabulary:
    """Text embeddings of a vocabulary, padded to a bucket of T classes; `mask` is False for the padding."""

    text: jax.Array  # float32 [T, p, e]
    mask: np.ndarray  # bool [T]
    count: int  # classes without the padding


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


@functools.partial(jax.jit, static_argnames=("config",))
def _merge(config: ModelConfig, params: Any) -> Any:
    return orthogonal.merge(config, params)[1]


def _encode_tokens(model: Any, params: Any, tokens: jax.Array) -> jax.Array:
    return model.apply({"params": params}, tokens, method="encode_text")


_encode_text = Compiled(_encode_tokens, "encode_text", static=("model",))


def encode_vocabulary(model: Any, params: Any, vocabulary: Vocabulary, pad_to: int | None = None) -> EncodedVocabulary:
    """Text embeddings of every class, encoded once; the padding is copies of the last class.

    `pad_to` is the padded number of classes; by default the smallest of CLASS_BUCKETS that fits. For a model with one
    prompt channel, several prompts become their average on the sphere (`Vocabulary.pool`).

    Raises ValueError when the model has several prompt channels and the vocabulary another number of prompts.
    """
    tokens = vocabulary.tokens(model.config.text.context)
    count, prompts, _ = tokens.shape
    channels = model.config.aggregator.prompts
    if channels not in (1, prompts):
        raise ValueError(
            f"the vocabulary gives {prompts} prompt(s) per class but model.aggregator.prompts is {channels}; "
            f"use {channels} templates, or a model with one prompt channel, which averages them"
        )
    padded = pad_to or buckets.bucket(count, buckets.CLASS_BUCKETS)
    block = min(max(1, PROMPTS_AT_ONCE // prompts), padded)
    tokens = np.concatenate([tokens, np.repeat(tokens[-1:], -count % block, axis=0)])
    parts = [_encode_text(model, params, tokens[start : start + block]) for start in range(0, len(tokens), block)]
    text = jnp.concatenate(parts)[:count]
    text = vocabulary.pool(text) if channels == 1 else text
    text = jnp.concatenate([text, jnp.repeat(text[-1:], padded - count, axis=0)])
    return EncodedVocabulary(text, np.arange(padded) < count, count)
