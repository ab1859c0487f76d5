"""What is arranged otherwise on a TPU: the same results, computed in the way that suits the platform.

Axes: b image, t class, p prompt, h w feature grid, c hidden channels.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import jax
from jaxtyping import Array, Float

from ahs_seg_jax.models import decoder, layers, tpu_decoder
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.ops import chunks, windows
from ahs_seg_jax.models.ops.windows import PRODUCTS, WindowAttention
from ahs_seg_jax.models.parameters import Params


def _embed_by_product(correlation: Float[Array, "b t h w p"], p: Params) -> Float[Array, "b t h w c"]:
    """One product over the neighbourhoods of all positions, which is how a CPU is fast."""
    side, _, prompts, hidden = p["kernel"].shape
    flat = {"kernel": p["kernel"].reshape(side * side * prompts, hidden), "bias": p["bias"]}
    return layers.linear(layers.patches(correlation, side), flat)


def _as_configured(images: int, chunk: int) -> int:
    return chunk


def _by_memory_of_tpu(images: int, chunk: int) -> int:
    return chunks.chunk_on_tpu(images)


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The parts of the model that have one way for each platform.

    `decoder` is a module with `prepare` and `decode`; `embed` is the 7x7 convolution of the correlation; `class_chunk`
    is (images, configured chunk) -> number of classes in a chunk, 0 for all at once; `attention` is that of windows.
    """

    decoder: ModuleType
    embed: Callable[[jax.Array, Params], jax.Array]
    class_chunk: Callable[[int, int], int]
    attention: WindowAttention = PRODUCTS


DEFAULT = Arrangement(decoder, _embed_by_product, _as_configured)  # for CPU and GPU
TPU = Arrangement(tpu_decoder, layers.conv_same, _by_memory_of_tpu)


def for_platform(config: ModelConfig, platform: str) -> Arrangement:
    """The arrangement that suits devices of a platform: cpu | gpu | tpu.

    `config.window_attention` counts where its kernel is there and takes the model's sizes; elsewhere products attend,
    with the same result.
    """
    if platform == "tpu":
        return TPU
    by, c = config.window_attention, config.aggregator
    sizes = {"head": c.hidden // c.heads, "window": min(config.grid, c.window)}
    if by == "cudnn" and not (platform in ("gpu", "cuda") and windows.fits_cudnn(dtype=config.dtype, **sizes)):
        return DEFAULT
    return dataclasses.replace(DEFAULT, attention=WindowAttention(by))
