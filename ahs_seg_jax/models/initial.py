"""Declarations of parameters and their initial values: PyTorch's defaults, or a set for training from nothing.

The published programs train fresh parameters from PyTorch's defaults: kernels and biases uniform within
+-1/sqrt(fan_in), where fan_in counts what PyTorch counts. No golden number shows them, the training curve does.

Axes of kernels: `[in, out]` and `[k, k, in, out]`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

zeros = nn.initializers.zeros_init()
ones = nn.initializers.ones_init()
normal = nn.initializers.normal
lecun = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# Each output pixel of a transposed convolution sees one position of the kernel: its inputs are the channels alone.
_lecun_transposed = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=2, out_axis=3, batch_axis=(0, 1)
)


def _uniform(fan_in: int) -> Any:
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def stacked(initializer: Any) -> Any:
    """The initializer of one layer, applied to each index of a leading axis of layers."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda key: initializer(key, shape[1:], dtype))(keys)

    return initialize


class Parameters(nn.Module):
    """Named float32 arrays: `shapes` maps a name to (initializer, shape). Calling it hands them out."""

    shapes: Mapping[str, tuple[Any, tuple[int, ...]]]

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        return {name: self._one(name, init, shape) for name, (init, shape) in self.shapes.items()}

    def _one(self, name: str, initializer: Any, shape: tuple[int, ...]) -> jax.Array:
        if not self.has_variable("params", name):
            fresh: jax.Array = self.param(name, initializer, shape)
            return fresh
        # Flax's `param` traces the initializer to learn its shape, which was more than half of the time that a model
        # takes to be traced.
        value: jax.Array = self.get_variable("params", name)
        if (found := np.shape(value)) != shape:
            raise flax.errors.ScopeParamShapeError(name, "/".join(self.path), found, shape)
        return value


def norm(features: int, name: str | None = None) -> Parameters:
    """`scale [c]` and `bias [c]` of a LayerNorm or GroupNorm: 1 and 0."""
    return Parameters({"scale": (ones, (features,)), "bias": (zeros, (features,))}, name=name)


@dataclasses.dataclass(frozen=True)
class Initial:
    """One set of initial values, as `model.init` names it. Its methods declare kernels with their biases.

    `torch`: PyTorch's defaults. Otherwise kernels of LeCun's size and biases of zero, unless a declaration says more.
    """

    torch: bool

    def matrix(self, fan_in: int, scratch: Any = lecun) -> Any:
        """The initializer of a kernel; `scratch` is that of the set for training from nothing."""
        return _uniform(fan_in) if self.torch else scratch

    def _declared(
        self, shape: tuple[int, ...], fan_in: int, name: str | None, kernel: Any = lecun, bias: Any = zeros
    ) -> Parameters:
        declared = {"kernel": (self.matrix(fan_in, kernel), shape)}
        if bias is not None:
            declared["bias"] = (self.matrix(fan_in, bias), shape[-1:])
        return Parameters(declared, name=name)

    def affine(self, features_in: int, features_out: int, name: str | None = None) -> Parameters:
        """A linear map."""
        return self._declared((features_in, features_out), features_in, name)

    def convolution(
        self, side: int, features_in: int, features_out: int, name: str | None = None, *, bias: Any = zeros
    ) -> Parameters:
        """A convolution. `bias` is the initializer of the set for training from nothing; None: there is no bias."""
        return self._declared((side, side, features_in, features_out), side**2 * features_in, name, bias=bias)

    def depthwise(self, side: int, features: int, name: str | None = None) -> Parameters:
        """A convolution of each channel by itself."""
        return self._declared((side, side, 1, features), side**2, name, kernel=normal(1 / side))

    def transposed(self, side: int, features_in: int, features_out: int, name: str | None = None) -> Parameters:
        """A transposed convolution of stride `side`. PyTorch takes its outputs for its inputs."""
        shape = (side, side, features_in, features_out)
        return self._declared(shape, side**2 * features_out, name, kernel=_lecun_transposed)


TORCH, SCRATCH = Initial(torch=True), Initial(torch=False)
INITIAL = {"torch": TORCH, "scratch": SCRATCH}
