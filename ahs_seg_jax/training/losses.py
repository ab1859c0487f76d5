"""The losses of AHS-Seg, one function each, and their weighted sum.

Axes: b image, t class, H W pixels of the labels, h w feature grid, e joint embedding.

Labels are class indices, -1 where unlabelled. Everything here is float32, and of the global batch whatever the mesh.
Source: AHS-Seg; parity: golden/boundary.npz, golden/dc_hsp.npz, golden/vitb_train_step.npz.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ahs_seg_jax.config import LossConfig
from ahs_seg_jax.models import layers
from ahs_seg_jax.models.ops import chunks, resize

TEMPERATURE = 0.1
MARGIN_PARENT, MARGIN_SIBLING = 0.3, 0.5
BOUNDARY_SCALES = ((1.0, 1.0), (0.5, 0.5))  # (scale, weight)


@dataclasses.dataclass(frozen=True)
class ClassPairs:
    """Pairs of class indices for the hierarchy loss: `parent_child` `[n, 2]`, `siblings` `[m, 2]`."""

    parent_child: np.ndarray
    siblings: np.ndarray


def one_hot(labels: Int[Array, "b H W"], classes: jax.Array) -> Float[Array, "b t H W"]:
    """1 where a pixel's label is the class, for the classes `[t]`; an unlabelled pixel belongs to none."""
    return (labels[:, None] == classes[None, :, None, None]).astype(jnp.float32)


def _corners(labels: Int[Array, "b H W"], size: tuple[int, int]) -> list[tuple[jax.Array, np.ndarray]]:
    """What a bilinear resize to `size` reads: (labels `[b, *size]`, weight `[1, 1, *size]`) of up to four pixels."""
    (rows, of_row), (columns, of_column) = (
        resize.linear_taps(length, out) for length, out in zip(labels.shape[-2:], size, strict=True)
    )
    found = []
    for i, j in itertools.product(range(2), repeat=2):
        weight = of_row[:, i, None] * of_column[:, j]
        if weight.any():
            found.append((labels[:, rows[:, i, None], columns[:, j]], weight[None, None].astype(np.float32)))
    return found


def segmentation_loss(
    logits: Float[Array, "b t h w"], labels: Int[Array, "b H W"], chunk: int = 0, unlabelled: str = "negative"
) -> Float[Array, ""]:
    """Sigmoid cross-entropy of the logits resized to the labels, mean over pixels and classes.

    Unlabelled pixels count as negatives of every class (`unlabelled` "negative": parity), or not at all ("ignored").
    """
    counted = (labels >= 0)[:, None]

    def cross_entropy(logits: jax.Array, index: jax.Array) -> jax.Array:
        x = resize.bilinear(logits, (labels.shape[-2], labels.shape[-1]), (-2, -1))
        return jax.nn.softplus(x) - x * one_hot(labels, index[0])

    if unlabelled == "negative":
        return _over_classes(lambda *part: cross_entropy(*part).mean((-2, -1)), logits, chunk).mean()
    of_labelled = lambda *part: jnp.where(counted, cross_entropy(*part), 0.0).sum((-2, -1))
    total = _over_classes(of_labelled, logits, chunk).sum()
    return total / jnp.maximum(counted.sum() * logits.shape[1], 1)


def _over_classes(function: Callable[..., jax.Array], logits: jax.Array, chunk: int) -> jax.Array:
    """`function(logits [b, s, h, w], class index [1, s])` over all classes."""
    index = jnp.arange(logits.shape[1])[None]
    return chunks.over_classes(function, logits, index, chunk=chunk, remat="all" if chunk else "none")


def sobel_magnitude(x: Float[Array, "*batch H W"]) -> Float[Array, "*batch H W"]:
    """`sqrt(gx^2 + gy^2 + 1e-8)` of the 3x3 Sobel responses, zero padding."""
    rows, columns = x.shape[-2:]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])
    # Separable: smooth (1, 2, 1) along one axis, difference (-1, 0, 1) along the other.
    smooth_rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    smooth_columns = padded[..., :, :-2] + 2 * padded[..., :, 1:-1] + padded[..., :, 2:]
    gx = smooth_rows[..., :, 2:] - smooth_rows[..., :, :columns]
    gy = smooth_columns[..., 2:, :] - smooth_columns[..., :rows, :]
    return jnp.sqrt(gx * gx + gy * gy + 1e-8)


def _near_unlabelled(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`[b, 1, *size]`: True within one pixel of an unlabelled pixel, at the resolution `size`."""
    unlabelled = resize.bilinear((labels < 0).astype(jnp.float32), size, (-2, -1)) > 0
    return jax.lax.reduce_window(unlabelled, False, jax.lax.bitwise_or, (1, 3, 3), (1, 1, 1), "SAME")[:, None]


def _edge_cross_entropy(edge: jax.Array, target: jax.Array, floor: float) -> jax.Array:
    """Binary cross-entropy of edges in 0..1 with clamped logarithms; at exactly 1 a constant."""
    # Double where: at 1 the clamp is active and its gradient zero, but the naive one would be 0 * inf.
    is_one = edge >= 1.0
    safe = jnp.where(is_one, 0.5, edge)
    log_one_minus = jnp.where(is_one, floor, jnp.maximum(jnp.log1p(-safe), floor))
    log_edge = jnp.where(is_one, 0.0, jnp.maximum(jnp.log(safe), floor))
    return -(target * log_edge + (1.0 - target) * log_one_minus)


def _boundary_at(logits: jax.Array, labels: jax.Array, scale: float, floor: float, chunk: int) -> Float[Array, ""]:
    full = (labels.shape[-2], labels.shape[-1])
    size = (int(full[0] * scale), int(full[1] * scale))
    counted, corners = ~_near_unlabelled(labels, size), _corners(labels, size)

    def predicted_edges(logits: jax.Array) -> jax.Array:
        return sobel_magnitude(jax.nn.sigmoid(resize.bilinear_through(logits, full, size, (-2, -1))))

    def target_edges(index: jax.Array) -> jax.Array:
        # The resized one-hot labels; a resize for each class would cost more than all else here.
        parts = [jnp.asarray(weight) * one_hot(at, index[0]) for at, weight in corners]
        return sobel_magnitude(sum(parts[1:], start=parts[0]))

    def largest(logits: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.stack([edge.max((-2, -1)) for edge in (predicted_edges(logits), target_edges(index))], -1)

    # One maximum for the whole tensor, over images and classes: each has its gradient from one class of one image.
    of_classes = jax.lax.stop_gradient(_over_classes(largest, jax.lax.stop_gradient(logits), chunk))
    predicted_max, target_max = of_classes.max((0, 1))
    place = jax.nn.one_hot(of_classes[..., 0].argmax(), logits[..., 0, 0].size).reshape(logits.shape[:2])
    again = predicted_edges(jnp.einsum("bt,bthw->hw", place, logits, precision=jax.lax.Precision.HIGHEST)).max()
    predicted_max += again - jax.lax.stop_gradient(again)

    def terms(logits: jax.Array, index: jax.Array) -> jax.Array:
        predicted, target = predicted_edges(logits), target_edges(index)
        # The maximum itself is exactly 1 in exact arithmetic; float division may give 0.99999994.
        predicted = jnp.where(predicted >= predicted_max, 1.0, predicted / (predicted_max + 1e-8))
        entropy = _edge_cross_entropy(predicted, target / (target_max + 1e-8), floor)
        return jnp.where(counted, entropy, 0.0).sum((-2, -1))

    total = _over_classes(terms, logits, chunk).sum()
    return total / jnp.maximum(counted.sum() * logits.shape[1], 1)


def boundary_loss(
    logits: Float[Array, "b t h w"],
    labels: Int[Array, "b H W"],
    *,
    scales: tuple[tuple[float, float], ...] = BOUNDARY_SCALES,
    floor: float = -100.0,
    chunk: int = 0,
) -> Float[Array, ""]:
    """Cross-entropy between the edges of the sigmoid maps and of the one-hot labels, at `(scale, weight)` pairs.

    Each tensor of edges is divided by its largest value. Pixels within one pixel of an unlabelled one are left out.
    `floor` clamps the logarithms. Parity: golden/boundary.npz (one-hot targets).
    """
    logits = logits.astype(jnp.float32)
    weighted = [weight * _boundary_at(logits, labels, scale, floor, chunk) for scale, weight in scales]
    return sum(weighted, start=jnp.zeros(())) / sum(weight for _, weight in scales)


def class_prototypes(
    features: Float[Array, "b h w e"], labels: Int[Array, "b h w"], classes: int
) -> tuple[Float[Array, "t e"], Float[Array, "t"]]:
    """Unit-length mean feature of each class over the batch, and how many positions it has (0: absent)."""
    member = one_hot(labels, jnp.arange(classes))
    total = jnp.einsum("bthw,bhwe->te", member, features.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    count = member.sum((0, 2, 3))
    return layers.l2_normalise(total / jnp.maximum(count, 1.0)[:, None]), count


def contrastive_loss(
    image: Float[Array, "b h w e"], text: Float[Array, "t e"], labels: Int[Array, "b H W"]
) -> Float[Array, ""]:
    """Cross-entropy of each present class's prototype with the present classes' texts; 0 if fewer than two.

    Labels are brought to the feature grid by nearest neighbour; unlabelled positions belong to no class.
    """
    on_grid = resize.nearest(labels, (image.shape[1], image.shape[2]))
    prototypes, count = class_prototypes(image, on_grid, text.shape[0])
    present = count > 0
    similarity = jnp.matmul(prototypes, layers.l2_normalise(text).T, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE
    log_share = jnp.diagonal(similarity) - jax.nn.logsumexp(jnp.where(present[None], similarity, -jnp.inf), axis=-1)
    mean = -jnp.where(present, log_share, 0.0).sum() / jnp.maximum(present.sum(), 1)
    return jnp.where(present.sum() > 1, mean, 0.0)


def hierarchy_loss(text: Float[Array, "t e"], pairs: ClassPairs) -> Float[Array, ""]:
    """Mean over all pairs of |(1 - cos) - margin|: 0.3 for parent and child, 0.5 for siblings."""
    index = np.concatenate([np.reshape(pairs.parent_child, (-1, 2)), np.reshape(pairs.siblings, (-1, 2))])
    margin = np.repeat([MARGIN_PARENT, MARGIN_SIBLING], [len(pairs.parent_child), len(pairs.siblings)])
    unit = layers.l2_normalise(text)
    distance = 1.0 - (unit[index[:, 0]] * unit[index[:, 1]]).sum(-1)
    return jnp.abs(distance - margin.astype(np.float32)).mean()


def total_loss(
    logits: Float[Array, "b t h w"],
    out: dict[str, Any],
    labels: Int[Array, "b H W"],
    config: LossConfig,
    pairs: ClassPairs | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum, and each loss by name, unweighted. Which losses there are follows from the model's `out`.

    There is always `segmentation`. HA-HEM adds `energy`, MH-FPN adds `boundary`, and DC-HSP adds `contrastive` and,
    with `pairs`, `hierarchy`.
    """
    parts = {"segmentation": segmentation_loss(logits, labels, config.class_chunk, config.unlabelled)}
    if "energy" in out["rotations"]:
        parts["energy"] = out["rotations"]["energy"]
    if "mh_fpn" in out:
        parts["boundary"] = boundary_loss(logits, labels, floor=config.boundary_log_floor, chunk=config.class_chunk)
    if "dc_hsp" in out:
        image, text = out["dc_hsp"]["image"], out["dc_hsp"]["text"]
        parts["contrastive"] = contrastive_loss(image, text, labels)
        if pairs is not None and len(pairs.parent_child) + len(pairs.siblings):
            parts["hierarchy"] = hierarchy_loss(text, pairs)
    total = sum((getattr(config, name) * value for name, value in parts.items()), start=jnp.zeros(()))
    return total, parts
