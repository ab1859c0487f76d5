"""How far a converted checkpoint is from another implementation: a table, stage by stage, against saved activations.

    ahs-seg parity CHECKPOINT ACTIVATIONS.npz

The npz holds `image` (uint8 `[H, W, 3]`), `class_names`, and any of these, in PyTorch's axis order, each whole or with
every k-th element along any axis (k is found from the sizes):

  text_embeddings [t, e]       normalised                  guidance1, guidance2 [1, c, y, x]  upsampled tower taps
  layerN [tokens, d]           block N, class token first  logits [1, t, y, x]                before the sigmoid
  dense_features [1, e, h, w]  projected, no class token   kept [256]                         class indices, ascending
  labels [H, W]                argmax                      kept_logits [256, y, x]            logits of the kept classes
  probabilities [t, H, W]      at the image's size         resized_shape                      states: sliding windows

A name may end with a number of its step (`probabilities_8`), which is not needed. With `resized_shape`, labels and
probabilities are those of the sliding-window protocol; else they are of the whole image.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.inference import labelling
from ahs_seg_jax.inference.engine import Engine
from ahs_seg_jax.inference.protocols import CAT_SEG, WHOLE
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.vocabulary import Vocabulary

TOLERANCE = 1e-4  # of the largest absolute value
AGREEMENT = 0.999  # of the pixels' labels
INPUTS = ("image", "class_names", "resized_shape")
INDICES = ("labels", "kept")  # compared by equality


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage: largest absolute error, largest absolute value of the reference, share of equal labels (or NaN)."""

    stage: str
    shape: tuple[int, ...]
    error: float
    largest: float
    agreement: float = float("nan")

    @property
    def relative(self) -> float:
        """Error as a share of the largest value."""
        return self.error / self.largest if self.largest else self.error

    @property
    def holds(self) -> bool:
        """Whether the stage is within the tolerances; labels count by agreement alone."""
        return (self.relative <= TOLERANCE or self.stage in INDICES) and not self.agreement < AGREEMENT


def compare(stage: str, ours: np.ndarray, theirs: np.ndarray, classes: int | None = None, skip: int = 0) -> Row:
    """Compares an activation with a saved one, of which every k-th element along an axis may have been kept.

    `classes` is the axis of classes, for the share of positions where the most probable class is the same. `skip` saved
    rows are left out of the comparison.

    Raises:
      CheckpointError: no step along the axes gives the saved shape.
    """
    taken = None
    if ours.ndim == theirs.ndim:
        steps = [-(-n // max(m, 1)) for n, m in zip(ours.shape, theirs.shape, strict=True)]
        taken = ours[tuple(slice(None, None, step) for step in steps)]
    if taken is None or taken.shape != theirs.shape:
        raise CheckpointError(
            f"{stage} is saved as {list(theirs.shape)}, which is not every k-th element of our {list(ours.shape)}"
        )
    taken, theirs = taken[skip:], theirs[skip:]
    agreement = float("nan")
    if stage in INDICES:
        agreement = float((taken == theirs).mean())
    elif classes is not None:
        agreement = float((taken.argmax(classes) == theirs.argmax(classes)).mean())
    error = np.abs(taken.astype(np.float64) - theirs.astype(np.float64))
    return Row(stage, theirs.shape, float(error.max()), float(np.abs(theirs).max()), agreement)


def report(pretrained: Pretrained, saved: Mapping[str, np.ndarray], class_pooling: int = 2) -> list[Row]:
    """One row for each saved activation, in float32.

    Raises:
      CheckpointError: image or class_names are absent, a name is unknown, or a shape does not fit the model.
    """
    if absent := set(INPUTS[:2]) - set(saved):
        raise CheckpointError(
            f"the activations lack {' and '.join(sorted(absent))}, from which the others are computed"
        )
    stages = {re.sub(r"_\d+$", "", name): value for name, value in saved.items() if name not in INPUTS}
    compute = _sliding_window if "resized_shape" in saved else _whole_image
    ours = compute(pretrained, saved, class_pooling)
    if unknown := sorted(set(stages) - set(ours)):
        raise CheckpointError(f"no activation is called {', '.join(unknown)}; choose among {', '.join(ours)}")
    rows = []
    for stage, theirs in stages.items():
        axis = {"logits": 1, "probabilities": 0}.get(stage)
        rows.append(compare(stage, np.asarray(ours[stage]), theirs, axis, skip=int(stage.startswith("layer"))))
    return rows


def _vocabulary(saved: Mapping[str, np.ndarray]) -> Vocabulary:
    return Vocabulary(tuple(str(name) for name in saved["class_names"]))


def _model(pretrained: Pretrained) -> AHSSeg:
    return AHSSeg(pretrained.config.replace(dtype="float32"))


def _whole_image(pretrained: Pretrained, saved: Mapping[str, np.ndarray], class_pooling: int) -> dict[str, Any]:
    model = _model(pretrained)
    tokens = _vocabulary(saved).tokens(model.config.text.context, model.config.text.tokenizer)
    return _stages(model, pretrained.params, saved["image"], tokens, class_pooling)


@functools.partial(jax.jit, static_argnames=("model", "class_pooling"))
def _stages(
    model: AHSSeg, params: Any, image: jax.Array, tokens: jax.Array, class_pooling: int
) -> dict[str, jax.Array]:
    """Every activation of the whole-image view, by the names and axes of the module's docstring."""
    logits, out = model.apply({"params": params}, image[None], tokens, class_pooling=class_pooling)
    channels_last = {"dense_features": out["dense"], "guidance1": out["upsampled"][0], "guidance2": out["upsampled"][1]}
    found = {name: jnp.moveaxis(value, -1, 1) for name, value in channels_last.items()}
    for block, value in out["taps"].items():
        patches = value.reshape(-1, value.shape[-1])
        found[f"layer{block}"] = jnp.pad(patches, ((1, 0), (0, 0)))  # where the class token would be
    found |= {"text_embeddings": out["text"][:, 0], "logits": logits}
    found["probabilities"] = labelling.probabilities(logits, (image.shape[0], image.shape[1]), WHOLE)
    found["labels"] = found["probabilities"].argmax(0)
    if "kept" in out:
        found |= {"kept": out["kept"][0], "kept_logits": logits[0][out["kept"][0]]}
    return found


def _sliding_window(pretrained: Pretrained, saved: Mapping[str, np.ndarray], class_pooling: int) -> dict[str, Any]:
    """Probabilities and labels of the sliding-window protocol."""
    image, keep = saved["image"], pretrained.config.aggregator.pad_len or None
    engine = Engine(_model(pretrained), jax.device_put(pretrained.params), keep=keep)
    vocabulary = _vocabulary(saved)
    text, count = engine.encode_text(vocabulary), len(vocabulary)
    found = engine.label([image], text, CAT_SEG, class_pooling=class_pooling, probabilities=count)
    labels, _, probabilities = next(iter(found))
    return {"probabilities": probabilities, "labels": labels}


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'stage':18}{'compared':>20}{'max error':>12}{'relative':>12}{'labels equal':>14}"]
    for row in rows:
        agreement = "" if np.isnan(row.agreement) else f"{100 * row.agreement:.3f} %"
        errors = ("", "") if row.stage in INDICES else (f"{row.error:.3e}", f"{row.relative:.3e}")
        numbers = f"{'x'.join(map(str, row.shape)):>20}{errors[0]:>12}{errors[1]:>12}{agreement:>14}"
        lines.append(f"{row.stage:18}{numbers}  {'ok' if row.holds else 'DIFFERS'}")
    return "\n".join(lines)
