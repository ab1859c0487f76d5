"""Counts the matrix work of a program, loops as often as they run.

XLA's own cost analysis counts a loop's body once, so that a program in chunks seems cheaper than the same work at once.
Here the products and convolutions of the traced program are counted, times the lengths of the loops around them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

# How many products as large as that of the scores cuDNN's fused attention does. Backward it computes the scores again.
FUSED_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
UNKNOWN_LOOP = 1  # runs of a loop that decides its own length, such as that of the inverse of the rotations


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations of a program, a multiply-add counted as two."""

    flops: float = 0.0
    unknown_loops: int = 0  # loops whose length the program decides while it runs

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.unknown_loops + other.unknown_loops)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.unknown_loops)


def count(function: Callable[..., Any], *args: Any) -> Work:
    """The work of the products and convolutions of `function(*args)`, except those whose result is not used.

    `args` may be shapes; nothing runs.
    """
    closed = jax.make_jaxpr(function)(*args)
    alive, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of_jaxpr(alive)


def _of_jaxpr(jaxpr: Any) -> Work:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), start=Work())


def _of_equation(equation: Any) -> Work:
    name, settings = equation.primitive.name, equation.params
    if name == "dot_general":
        return Work(_product(equation))
    if name == "conv_general_dilated":
        return Work(_convolution(equation))
    if name in FUSED_ATTENTION:
        return Work(FUSED_ATTENTION[name] * _attention(equation))
    inner = [_of_jaxpr(jaxpr) for value in settings.values() for jaxpr in _jaxprs(value)]
    if name == "scan":
        return sum(inner, start=Work()) * settings["length"]
    if name == "while":
        return sum(inner, start=Work()) * UNKNOWN_LOOP + Work(0.0, 1)
    if name == "cond":
        return max(inner, key=lambda branch: branch.flops)
    return sum(inner, start=Work())


def _jaxprs(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _jaxprs(item)


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _attention(equation: Any) -> float:
    """Floating-point operations of one product of scores, of queries `[b, n, m, d]` and as many keys."""
    batch, tokens, heads, channels = equation.invars[0].aval.shape
    return 2.0 * batch * heads * tokens * equation.invars[1].aval.shape[1] * channels


def _convolution(equation: Any) -> float:
    """Floating-point operations of a convolution.

    Taps that fall on padding or between the elements of a dilated input count as no work, as in XLA's own analysis.
    """
    settings, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    taps = 1.0
    for i, axis in enumerate(numbers.lhs_spec[2:]):
        taps *= valid_taps(
            image[axis],
            kernel[numbers.rhs_spec[2 + i]],
            out[numbers.out_spec[2 + i]],
            stride=settings["window_strides"][i],
            padding=settings["padding"][i][0],
            image_dilation=settings["lhs_dilation"][i],
            kernel_dilation=settings["rhs_dilation"][i],
        )
    # Groups need no case of their own: the kernel has the input channels of one group, the result the images of one.
    return 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]] * taps


@functools.cache
def valid_taps(
    size: int, kernel: int, out: int, *, stride: int, padding: int, image_dilation: int, kernel_dilation: int
) -> int:
    """The number of pairs (output position, kernel position) of one axis that meet an element of the input."""
    at = np.arange(kernel)[:, None] * kernel_dilation - padding + np.arange(out) * stride
    return int(np.count_nonzero((at >= 0) & (at <= (size - 1) * image_dilation) & (at % image_dilation == 0)))
