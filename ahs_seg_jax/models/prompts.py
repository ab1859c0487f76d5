"""Prompts that begin alike: their common first tokens apart, so that the text tower sees them once.

Axes: t class, p prompt, q token of the common beginning, l token of the rest.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int


class Prompts(NamedTuple):
    """Token ids: `prefix` begins every prompt, `rest` goes on with its end token somewhere, zero after it."""

    prefix: Int[Array | np.ndarray, "q"]
    rest: Int[Array | np.ndarray, "t p l"]


def split(tokens: Int[np.ndarray, "t p l"]) -> Prompts:
    """Prompts by their longest common beginning, which holds no end token (the last that is not 0), and the rest.

    No column of padding is left.

    The tower is causal, so that the beginning does not see what follows: its keys and values are the same for all. Of
    "A photo of a {} in the scene", five of the twelve tokens of COCO-Stuff's longest prompt.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    ends = flat.shape[1] - 1 - np.argmax(flat[:, ::-1] != 0, 1)
    alike = (flat == flat[:1]).all(0) & (np.arange(flat.shape[1]) < ends.min())
    count = int(np.argmin(np.append(alike, False)))
    length = int(ends.max()) + 1
    return Prompts(flat[0, :count], tokens[:, :, count:length])


def separate(tokens: Prompts | jax.Array) -> tuple[Any, Any]:
    """`(prefix or None, rest)` of either form."""
    return (tokens.prefix, tokens.rest) if isinstance(tokens, Prompts) else (None, tokens)
