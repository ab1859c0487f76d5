"""What the backward pass computes again instead of keeping it in memory."""

import math
from collections.abc import Callable
from typing import Any

import jax

SHORT = 256  # channels: products of shorter vectors are computed again rather than kept


def _is_worth_keeping(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """Whether a result is that of a convolution, or of a product of long vectors with parameters (no batch axis).

    One number of a short product is little work for the memory that it takes.
    """
    if primitive.name != "dot_general":
        return primitive.name == "conv_general_dilated"
    (contracted, _), (batch, _) = parameters["dimension_numbers"]
    return not batch and math.prod(operands[0].shape[axis] for axis in contracted) >= SHORT


def rematerialised(function: Callable[..., Any], remat: str, *, in_loop: bool) -> Callable[..., Any]:
    """`function`, of which the backward pass computes again what `remat` says.

    "none": nothing. "cheap": everything but convolutions and products of long vectors with parameters, whose results
    are kept. "all": everything. `in_loop` says that the call stands inside a compiled loop.

    A primitive inside a function with a gradient of its own (`jax.custom_vjp`) is seen only where the forward rule
    calls that primitive itself. A rule that calls the function hides the primitive, and all of it is computed again.
    """
    if remat == "none":
        return function
    policy = _is_worth_keeping if remat == "cheap" else None
    return jax.checkpoint(function, prevent_cse=not in_loop, policy=policy)
