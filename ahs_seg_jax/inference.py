"""From an image and class names to labels: views, the model's stages, blending, argmax over chunks of classes.

Axes: b image, v view, t class, p prompt, e joint embedding, g side of the logit grid (4 h), n side of the blended map.

Two protocols (CAT-Seg; the published numbers use `cat_seg`):
  whole    one view, the image squashed to the crop; sigmoid of the logits, then bilinear to the output size
  cat_seg  windows over the squashed image and one global view; logits to the window's size, then sigmoid, windows
           averaged where they overlap, mean with the global view, bilinear to the output size

Nothing compiled depends on an image's own size or on the exact number of classes: views are made on the host, classes
are padded to a bucket and masked, output sizes are padded to a bucket and cropped by the caller. `traces` counts how
often each compiled function was traced.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ahs_seg_jax.compiled import Compiled, traces
from ahs_seg_jax.models import clip, orthogonal, resize, sharding
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.vocabulary import Vocabulary

PROTOCOLS = ("whole", "cat_seg")
CLASS_BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512, 768, 1024)
OUTPUT_BUCKETS = (128, 256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096)
CLASSES_AT_ONCE = 8  # classes whose probabilities exist at the output size together
ROWS_AT_ONCE = 128  # and output rows of them; divides every output bucket
PROMPTS_AT_ONCE = 256  # prompts that the text tower encodes together


@dataclasses.dataclass(frozen=True)
class Windows:
    """Geometry of the sliding-window protocol, in pixels. The defaults are CAT-Seg's."""

    shortest: int = 640  # the image's shortest edge after the first resize
    longest: int = 2560  # bound of its longest edge
    size: int = 640  # side of the square it is squashed to
    window: int = 384
    stride: int = 256

    def __post_init__(self) -> None:
        if self.window > self.size or (self.size - self.window) % self.stride:
            raise ValueError(
                f"windows of {self.window} at stride {self.stride} do not cover {self.size} pixels exactly; "
                "size - window must be a multiple of stride, 0 included"
            )

    @property
    def starts(self) -> range:
        """Where windows begin along each axis."""
        return range(0, self.size - self.window + 1, self.stride)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corner (y, x) of every window, row by row."""
        return [(y, x) for y in self.starts for x in self.starts]


CAT_SEG = Windows()


@dataclasses.dataclass(frozen=True)
class EncodedVocabulary:
    """Text embeddings of a vocabulary, padded to a bucket of T classes; `mask` is False for the padding."""

    text: jax.Array  # float32 [T, p, e]
    mask: np.ndarray  # bool [T]
    count: int  # classes without the padding


def bucket(count: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds `count`; above the largest one, the next multiple of a quarter of it."""
    fitting = [size for size in buckets if size >= count]
    return fitting[0] if fitting else -(-count // (buckets[-1] // 4)) * (buckets[-1] // 4)


def check_protocol(protocol: str) -> None:
    """Raises ValueError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")


def check_image(image: np.ndarray) -> None:
    """Raises TypeError or ValueError unless `image` is uint8 RGB `[H, W, 3]` with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        seen = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image is {seen}; pass a NumPy array of dtype uint8, RGB 0..255")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image has shape {list(image.shape)}; it must be [H, W, 3], RGB, with at least one pixel")


def merged(model: Any, params: Any) -> tuple[Any, Any]:
    """The model and its parameters with the rotations folded into the weights, so that they cost nothing per image."""
    config = model.config
    if config.adaptation == "none":
        return model, params
    return model.clone(config=config.replace(adaptation="none")), _merge(config, params)


def listed(model: Any, params: Any) -> tuple[Any, Any]:
    """A merged model whose image tower takes each block's parameters by itself (`clip.listed`), and the parameters."""
    return model.clone(scan_layers=False), jax.jit(clip.listed)(params)


@functools.partial(jax.jit, static_argnames=("config",))
def _merge(config: ModelConfig, params: Any) -> Any:
    return orthogonal.merge(config, params)[1]


def taps(size_in: int, size_out: int) -> resize.Taps:
    """The two source indices (int32 `[m]`) and the second one's weight (float32 `[m]`) of a bilinear resize."""
    index, weight = resize.linear_taps(size_in, size_out)
    return index[:, 0].astype(np.int32), index[:, 1].astype(np.int32), weight[:, 1].astype(np.float32)


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Float32 `[size, size, 3]` of an image `[H, W, 3]`: bilinear, no anti-aliasing, the aspect ratio is lost."""
    values = image  # rows are chosen first: a large image as float32 would take four times its memory
    for axis in (0, 1):
        low, high, weight = taps(values.shape[axis], size)
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = (values.take(index, axis).astype(np.float32) for index in (low, high))
        values = first * (1 - weight) + second * weight
    return values


def shortest_edge_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) after a resize that keeps the aspect: shortest edge `shortest`, longest at most `longest`."""
    scale = min(shortest / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def make_views(image: np.ndarray, protocol: str, crop: int, windows: Windows = CAT_SEG) -> np.ndarray:
    """What the model sees of an image uint8 `[H, W, 3]`: float32 `[v, s, s, 3]`, RGB 0..255.

    `whole`: one view of side s = `crop`. `cat_seg`: the windows row by row, then the global view, s = window.
    Raises ValueError or TypeError for an unknown protocol or an image of another type or shape.
    """
    check_protocol(protocol)
    check_image(image)
    if protocol == "whole":
        return squash(image, crop)[None]
    height, width = shortest_edge_size(image.shape[0], image.shape[1], windows.shortest, windows.longest)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    squashed, side = squash(resized, windows.size), windows.window
    return np.stack([*(squashed[y : y + side, x : x + side] for y, x in windows.corners), squash(resized, side)])


def views_shape(protocol: str, crop: int, windows: Windows = CAT_SEG) -> tuple[int, int, int, int]:
    """Shape (v, s, s, 3) of what `make_views` returns."""
    if protocol == "whole":
        return 1, crop, crop, 3
    return len(windows.corners) + 1, windows.window, windows.window, 3


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
    padded = bucket(count, CLASS_BUCKETS) if pad_to is None else pad_to
    block = min(max(1, PROMPTS_AT_ONCE // prompts), padded)
    tokens = np.concatenate([tokens, np.repeat(tokens[-1:], -count % block, axis=0)])
    parts = [_encode_text(model, params, tokens[start : start + block]) for start in range(0, len(tokens), block)]
    text = jnp.concatenate(parts)[:count]
    text = vocabulary.pool(text) if channels == 1 else text
    text = jnp.concatenate([text, jnp.repeat(text[-1:], padded - count, axis=0)])
    return EncodedVocabulary(text, np.arange(padded) < count, count)


@functools.partial(jax.jit, static_argnames=("model", "class_pooling", "one_by_one", "mesh"))
def view_logits(
    model: Any,
    params: Any,
    views: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    class_pooling: int = 1,
    one_by_one: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Logits of every view: `[b, v, s, s, 3]` RGB 0..255 and text `[T, p, e]`, mask `[T]` -> float32 `[b, v, T, g, g]`.

    `one_by_one` segments one view of every image at a time (less memory) instead of all b v at once; same results.
    `mesh`: the devices that the images are spread over, and the result.
    """
    traces["view_logits"] += 1
    variables = {"params": params}

    def segment(images: jax.Array) -> jax.Array:
        features = model.apply(variables, images, method="encode_image")
        logits, _ = model.apply(
            variables, features, text, class_pooling=class_pooling, class_mask=mask, method="segment"
        )
        return logits

    with sharding.on(mesh):
        if one_by_one and views.shape[1] > 1:
            return sharding.by_image(jnp.moveaxis(jax.lax.map(segment, jnp.moveaxis(views, 1, 0)), 0, 1))
        flat = segment(views.reshape(-1, *views.shape[2:]))
        return sharding.by_image(flat.reshape(*views.shape[:2], *flat.shape[1:]))


def _blend(logits: jax.Array, protocol: str, windows: Windows) -> jax.Array:
    """Probabilities `[t, n, n]` of the views' logits `[v, t, g, g]`."""
    if protocol == "whole":
        return jax.nn.sigmoid(logits[0])
    side, size, across = windows.window, windows.size, len(windows.starts)
    # Columns stand before rows from here to the sum: so no step gathers across rows.
    probabilities = jax.nn.sigmoid(resize.turned(logits, *_taps_of(logits, (side, side))))
    rows = [_overlapped(list(probabilities[i * across : (i + 1) * across]), windows, -2) for i in range(across)]
    whole = resize.turned(probabilities[-1], *_taps_of(probabilities, (size, size)))
    return (jnp.swapaxes(_overlapped(rows, windows, -1), -1, -2) + whole) / 2


def _overlapped(parts: Sequence[jax.Array], windows: Windows, axis: int) -> jax.Array:
    """Windows beside each other along an axis as one array, the mean where they overlap."""
    edges = sorted({edge for start in windows.starts for edge in (start, start + windows.window)})
    pieces = []
    for low, high in itertools.pairwise(edges):
        covering = [
            jax.lax.slice_in_dim(part, low - start, high - start, axis=axis)
            for part, start in zip(parts, windows.starts, strict=True)
            if start <= low and high <= start + windows.window
        ]
        pieces.append(functools.reduce(operator.add, covering) / len(covering))
    return jnp.concatenate(pieces, axis)


def _taps_of(x: jax.Array, size: tuple[int, int]) -> tuple[resize.Taps, resize.Taps]:
    return taps(x.shape[-2], size[0]), taps(x.shape[-1], size[1])


def probabilities(logits: jax.Array, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG) -> jax.Array:
    """Probabilities float32 `[t, H, W]` of the views' logits `[v, t, g, g]` at the output size (H, W)."""
    check_protocol(protocol)
    blended = _blend(logits, protocol, windows)
    return resize.interpolated(blended, *_taps_of(blended, size))


def padded_probabilities(
    logits: jax.Array | np.ndarray, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG
) -> jax.Array:
    """As `probabilities`, padded to the output buckets `[t, H', W']`, so that sizes of a bucket share one program."""
    check_protocol(protocol)
    n = logits.shape[-1] if protocol == "whole" else windows.size
    row_taps, column_taps = (_padded_taps(n, extent) for extent in size)
    return _blend_to_size(logits, row_taps, column_taps, protocol=protocol, windows=windows)


def _blended_at(
    logits: jax.Array, row_taps: resize.Taps, column_taps: resize.Taps, protocol: str, windows: Windows
) -> jax.Array:
    return resize.interpolated(_blend(logits, protocol, windows), row_taps, column_taps)


_blend_to_size = Compiled(_blended_at, "probabilities", static=("protocol", "windows"))


def label_map(logits: jax.Array, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG) -> jax.Array:
    """The most probable class of every pixel: int32 `[H', W']`, the output size (H, W) padded to OUTPUT_BUCKETS.

    Crop the result to `[:H, :W]`. Equals the argmax of `probabilities`, the first of equals, at the memory of
    CLASSES_AT_ONCE classes, of which ROWS_AT_ONCE output rows exist together. Returns before the device has finished.
    """
    return best_classes(logits, size, protocol, windows)[0]


Best = tuple[jax.Array, jax.Array]  # int32 and float32 [H', W']: the most probable class, its probability


def best_classes(
    logits: jax.Array | np.ndarray,
    size: tuple[int, int],
    protocol: str,
    windows: Windows = CAT_SEG,
    before: Best | None = None,
    first: int = 0,
) -> Best:
    """Label and probability of the most probable class of every pixel, padded as in `label_map`.

    Classes may come in parts: `before` is the result for the classes up to `first`, where these logits begin.
    """
    check_protocol(protocol)
    n = logits.shape[-1] if protocol == "whole" else windows.size
    row_taps, column_taps = (_padded_taps(n, extent) for extent in size)
    if before is None:
        extent = (len(row_taps[0]), len(column_taps[0]))
        before = jnp.zeros(extent, jnp.int32), jnp.full(extent, -1.0, jnp.float32)
    return _best_classes(logits, np.int32(first), before, row_taps, column_taps, protocol=protocol, windows=windows)


def _padded_taps(size_in: int, size_out: int) -> resize.Taps:
    low, high, weight = taps(size_in, size_out)
    padding = (0, bucket(size_out, OUTPUT_BUCKETS) - size_out)
    return np.pad(low, padding), np.pad(high, padding), np.pad(weight, padding)


def _best_of_all(
    logits: jax.Array,
    first: jax.Array,
    before: Best,
    row_taps: resize.Taps,
    column_taps: resize.Taps,
    protocol: str,
    windows: Windows,
) -> Best:
    views, classes, g, _ = logits.shape
    # Padding classes come last and have probability 0: a tie goes to the first class, so they never win.
    padded = jnp.pad(logits, ((0, 0), (0, -classes % CLASSES_AT_ONCE), (0, 0), (0, 0)), constant_values=-100.0)
    chunks = jnp.moveaxis(padded.reshape(views, -1, CLASSES_AT_ONCE, g, g), 1, 0)
    # Bands of rows, so that what exists at the output size is small enough for a processor's cache.
    by_band = lambda x: x.reshape(-1, ROWS_AT_ONCE, *x.shape[1:])
    row_bands = tuple(by_band(jnp.asarray(tap)) for tap in row_taps)

    def step(best: Best, chunk: tuple[jax.Array, jax.Array]) -> tuple[Best, None]:
        first, chunk_logits = chunk
        blended = _blend(chunk_logits, protocol, windows)
        wide = jnp.swapaxes(resize.along(jnp.swapaxes(blended, -1, -2), column_taps), -1, -2)

        def band(parts: tuple[jax.Array, jax.Array, resize.Taps]) -> Best:
            label, value, taps = parts
            resized = resize.along(wide, taps)
            better = resized.max(axis=0) > value
            index = first + resized.argmax(axis=0).astype(jnp.int32)
            return jnp.where(better, index, label), jnp.maximum(resized.max(axis=0), value)

        return jax.lax.map(band, (*best, row_bands)), None

    firsts = first + jnp.arange(chunks.shape[0], dtype=jnp.int32) * CLASSES_AT_ONCE
    (labels, values), _ = jax.lax.scan(step, (by_band(before[0]), by_band(before[1])), (firsts, chunks))
    return labels.reshape(before[0].shape), values.reshape(before[1].shape)


_best_classes = Compiled(_best_of_all, "label_map", static=("protocol", "windows"))


def whole_image_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, class_pooling: int = 1
) -> jax.Array:
    """Protocol `whole`: probabilities float32 `[t, H, W]` of an image uint8 `[H, W, 3]`."""
    return _image_probabilities(model, params, image, vocabulary, "whole", class_pooling)


def cat_seg_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, class_pooling: int = 1
) -> jax.Array:
    """Protocol `cat_seg`: probabilities float32 `[t, H, W]` of an image uint8 `[H, W, 3]`.

    Parity: golden/vitb_sliding_window.npz (made with class_pooling=2).
    """
    return _image_probabilities(model, params, image, vocabulary, "cat_seg", class_pooling)


def _image_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, protocol: str, class_pooling: int
) -> jax.Array:
    views = make_views(image, protocol, model.config.image.crop)[None]
    logits = view_logits(model, params, views, vocabulary.text, vocabulary.mask, class_pooling)
    height, width = image.shape[:2]
    return probabilities(logits[0, :, : vocabulary.count], (height, width), protocol)
