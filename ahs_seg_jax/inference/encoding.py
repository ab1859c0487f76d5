"""Text embeddings of a vocabulary, and a model made ready for inference."""

import collections
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.models import orthogonal
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.vocabulary import TOKEN_BUCKETS, Vocabulary
from ahs_seg_jax.vocabulary.tokenizer import lengths

PROMPTS_AT_ONCE = 256  # prompts that the text tower encodes together


def merged(model: Any, params: Any) -> tuple[Any, Any]:
    """The model and its parameters with the rotations folded into the weights, so that they cost nothing per image."""
    config = model.config
    if config.adaptation == "none":
        return model, params
    return model.clone(config=config.replace(adaptation="none")), _merge(config, params)


def listed(params: Any) -> Any:
    """Parameters of a merged model with those of each block of the image tower by itself: `towers.transformer.Blocks`.

    XLA copies a layer's part of a stacked array before it uses it. One picture takes 3 % longer with these copies. In
    host memory the parts are views, and nothing is copied or compiled. What is listed already stays as it is.
    """
    blocks = params["clip"]["image"]["blocks"]
    if "0" in blocks:
        return params
    on_host = isinstance(jax.tree.leaves(blocks)[0], np.ndarray)
    return _listed(params) if on_host else _listed_on_device(params)


def _listed(params: Any) -> Any:
    image = dict(params["clip"]["image"])
    count = jax.tree.leaves(image["blocks"])[0].shape[0]
    image["blocks"] = {str(i): jax.tree.map(lambda a, i=i: a[i], image["blocks"]) for i in range(count)}
    return dict(params) | {"clip": dict(params["clip"]) | {"image": image}}


_listed_on_device = jax.jit(_listed)


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


class KnownQueries:
    """Embeddings of the last queries, by their tokens: a word more or less in a list costs its own prompts only."""

    def __init__(self, most: int = 4096):
        self._most = most
        self._rows: collections.OrderedDict[bytes, np.ndarray] = collections.OrderedDict()

    def encode(self, model: Any, params: Any, vocabulary: Vocabulary) -> Any:
        """`encode_vocabulary` of what is not known yet, for one model and its parameters."""
        return encode_vocabulary(model, params, vocabulary, self)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """The indices of those that are not known."""
        return [index for index, key in enumerate(keys) if key not in self._rows]

    def add(self, key: bytes, row: np.ndarray) -> None:
        """Keeps an embedding `[1, e]`."""
        self._rows[key] = row

    def taken(self, keys: Sequence[bytes]) -> np.ndarray:
        """The embeddings `[q, 1, e]`; those used longest ago that are too many are forgotten."""
        for key in keys:
            self._rows.move_to_end(key)
        found = np.stack([self._rows[key] for key in keys])
        while len(self._rows) > self._most:
            self._rows.popitem(last=False)
        return found


def encode_vocabulary(model: Any, params: Any, vocabulary: Vocabulary, known: KnownQueries | None = None) -> Any:
    """Text embeddings float32 `[q, p, e]` of every query; those that are `known` are not computed again.

    For a model with one prompt channel, several prompts become their average on the sphere (`Vocabulary.pool`).

    Raises ValueError when the model has several prompt channels and the vocabulary another number of prompts.
    """
    tokens = vocabulary.tokens(model.config.text.context, model.config.text.tokenizer)
    prompts = tokens.shape[1]
    channels = 1 if isinstance(model, TrainingFreeCLIP) else model.config.aggregator.prompts
    if channels not in (1, prompts):
        raise ValueError(
            f"the vocabulary gives {prompts} prompt(s) per class but model.aggregator.prompts is {channels}; "
            f"use {channels} templates, or a model with one prompt channel, which averages them"
        )
    if channels > 1 or known is None:
        text = _encode(model, params, tokens)
        return vocabulary.pool(text) if channels == 1 else text
    weights = vocabulary.prompt_weights
    keys = [b"".join([np.trim_zeros(prompt, "b").tobytes() for prompt in row]) for row in tokens]
    keys = [key + shares.tobytes() for key, shares in zip(keys, weights, strict=True)]
    if missing := known.missing(keys):
        found = np.asarray(vocabulary.pool(_encode(model, params, tokens[missing]), missing))
        for index, row in zip(missing, found, strict=True):
            known.add(keys[index], row)
    return known.taken(keys)


def _encode(model: Any, params: Any, tokens: np.ndarray) -> jax.Array:
    """Embeddings `[q, p, e]` of token ids `[q, p, l]`, PROMPTS_AT_ONCE prompts at a time.

    Of many prompts, those of about one length go together: CLIP's 80 templates differ by seven tokens.
    """
    count, prompts, longest = tokens.shape
    if count * prompts <= PROMPTS_AT_ONCE:
        size = buckets.bucket(count, buckets.CLASS_BUCKETS)
        return _encode_text(model, params, buckets.padded(tokens, size))[:count]
    flat = tokens.reshape(-1, 1, longest)
    needed = lengths(flat[:, 0])
    parts: list[jax.Array] = []
    places, shorter = np.empty(len(flat), np.int32), 0
    for length in (*(size for size in TOKEN_BUCKETS if size < longest), longest):
        rows = np.flatnonzero((needed > shorter) & (needed <= length))
        for start in range(0, len(rows), PROMPTS_AT_ONCE):
            some = rows[start : start + PROMPTS_AT_ONCE]
            places[some] = len(parts) * PROMPTS_AT_ONCE + np.arange(len(some))
            parts.append(_encode_text(model, params, buckets.padded(flat[some, :, :length], PROMPTS_AT_ONCE)))
        shorter = length
    return jnp.concatenate(parts)[places].reshape(count, prompts, -1)


def padded_text(text: jax.Array, multiple: int) -> tuple[jax.Array, np.ndarray]:
    """Text `[T, p, e]`, padded to a multiple with copies of the last class, and the mask `[T]` of the real classes."""
    count = len(text)
    padding = [(0, -count % multiple), (0, 0), (0, 0)]
    return jnp.pad(text, padding, mode="edge"), np.arange(count + padding[0][1]) < count
