"""What stands between the features of views and labels: a trained aggregator, or a comparison with the words alone.

The engine does the rest, the same for both. Axes: v view, q query, p prompt, e joint embedding, H W pixels.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets, cosine_labels, free_plan, in_passes, labelling, plan, refining
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.free_views import FreeViews, mosaic_of
from ahs_seg_jax.inference.in_passes import Features, ViewLogits
from ahs_seg_jax.inference.keeping import Keep
from ahs_seg_jax.inference.plan import Plan, Request
from ahs_seg_jax.inference.protocols import Blended, Protocol
from ahs_seg_jax.inference.tiles import Found
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP

AGGREGATOR = "aggregator"


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """What a call wants to know of an image."""

    classes: np.ndarray  # int32 [q], ascending: the class of each query
    probabilities: int = 0  # of how many classes, from the first one on
    area: float = 0.0  # a class that has at most this share of the pixels gets none; 0: any share will do
    exempt: Sequence[int] = ()  # classes whose pixels the area does not count, and which it never takes away


class Head(abc.ABC):
    """How words meet the features of views, and what their logits become."""

    name: str  # of the method
    side: int  # of the square that a native window becomes, in pixels
    together: int  # groups of views that images may fill together
    same_groups: bool  # groups are filled up, so that images with any number of views share one program
    logit_scale: float | None  # logits are cosines for a softmax with this scale; None: they are for sigmoids

    @abc.abstractmethod
    def check_pooling(self, class_pooling: int) -> None:
        """Raises ValueError for a side of the pooling before class layers that cannot be used."""

    @abc.abstractmethod
    def plan(self, params: Any, request: Request, memory_gb: float | None) -> Plan:
        """What a request takes. Raises ValueError if the memory bound does not suffice."""

    @abc.abstractmethod
    def segment(
        self, params: Any, features: Features, text: np.ndarray, *, keep: Keep, planned: Plan, pooling: int
    ) -> ViewLogits:
        """Logits of the views' features for text float32 `[q, p, e]`."""

    @abc.abstractmethod
    def found(
        self, logits: ViewLogits, image: np.ndarray, text: np.ndarray, protocol: Protocol, wanted: Wanted
    ) -> Found:
        """Labels (indices of classes), confidence and wanted probabilities of an image uint8 `[H, W, 3]`."""


def head_of(model: Any) -> Head:
    """The head that suits a model."""
    return Compared(model) if isinstance(model, TrainingFreeCLIP) else Aggregated(model)


class Aggregated(Head):
    """A trained aggregator."""

    name, together, same_groups, logit_scale = AGGREGATOR, 1, False, None

    def __init__(self, model: AHSSeg) -> None:
        self._model, self.side = model, model.config.image.crop

    def check_pooling(self, class_pooling: int) -> None:
        """See `Head`."""
        self._model.config.check_class_pooling(class_pooling)

    def plan(self, params: Any, request: Request, memory_gb: float | None) -> Plan:
        """See `Head`."""
        return plan.make_plan(self._model.config, params, request, memory_gb)

    def segment(
        self, params: Any, features: Features, text: np.ndarray, *, keep: Keep, planned: Plan, pooling: int
    ) -> ViewLogits:
        """See `Head`."""
        sizes = {"chunk": planned.chunk, "at_once": planned.at_once, "pooling": pooling}
        return in_passes.segment_views(self._model, params, features, text, keep=keep, **sizes)

    def found(
        self, logits: ViewLogits, image: np.ndarray, text: np.ndarray, protocol: Protocol, wanted: Wanted
    ) -> Found:
        """See `Head`."""
        assert isinstance(protocol, Blended)
        size, classes, kept = image.shape[:2], wanted.classes, None
        label, confidence = labelling.labels(logits, size, protocol)
        if wanted.area:
            small = _small(classes[label], wanted)
            label, confidence = labelling.labels(logits, size, protocol, allowed=~small[classes])
        if wanted.probabilities:
            starts = np.searchsorted(classes, np.arange(wanted.probabilities + 1))
            kept = labelling.all_probabilities(logits, int(starts[-1]), size, protocol)
            if len(kept) > wanted.probabilities:
                kept = np.maximum.reduceat(kept, starts[:-1])
        return classes[label], confidence, kept


class Compared(Head):
    """The cosines of features and words, and nothing that was trained for segmentation."""

    together, same_groups = 4, True

    def __init__(self, model: TrainingFreeCLIP) -> None:
        tower, settings = model.config.image, model.method
        self._model, self.name = model, settings.method
        self.side, self.logit_scale = tower.pretrained_grid * tower.patch_size, settings.logit_scale

    def check_pooling(self, class_pooling: int) -> None:
        """See `Head`; there are no class layers to pool for."""
        if class_pooling != 1:
            raise ValueError(
                f"class_pooling is {class_pooling}; it is for the class layers of a trained aggregator, and the "
                f"training-free method {self.name} has none: leave it at 1"
            )

    def plan(self, params: Any, request: Request, memory_gb: float | None) -> Plan:
        """See `Head`."""
        return free_plan.make_plan(self._model, params, request, memory_gb)

    def segment(
        self, params: Any, features: Features, text: np.ndarray, *, keep: Keep, planned: Plan, pooling: int
    ) -> ViewLogits:
        """See `Head`."""
        dense, parts = features["dense"], []
        for start in range(0, len(text), planned.chunk):
            piece = buckets.padded(text[start : start + planned.chunk], planned.chunk)
            parts.append(_compare(self._model, params, dense, piece))
        values = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)
        rows = np.arange(len(dense), dtype=np.int32)
        return ViewLogits(values, rows, np.tile(np.arange(len(text), dtype=np.int32), (len(dense), 1)))

    def found(
        self, logits: ViewLogits, image: np.ndarray, text: np.ndarray, protocol: Protocol, wanted: Wanted
    ) -> Found:
        """See `Head`."""
        assert isinstance(protocol, FreeViews)
        assert self.logit_scale is not None
        mosaic, classes = mosaic_of(protocol, image.shape[:2]), wanted.classes
        tower, scale, kept = self._model.config.image, self.logit_scale, None
        see = functools.partial(protocol.resized, image)
        picture = refining.refined(self._model.method, tower, logits, mosaic, see, text)
        label, confidence = cosine_labels.labels(picture, scale)
        if wanted.area:
            small = _small(classes[label], wanted)
            label, confidence = cosine_labels.labels_among(picture, scale, ~small[classes])
        if wanted.probabilities:
            kept = cosine_labels.probabilities(picture, scale, classes, wanted.probabilities)
        return classes[label], confidence, kept


def _small(label: np.ndarray, wanted: Wanted) -> np.ndarray:
    return cosine_labels.small_classes(label, int(wanted.classes[-1]) + 1, wanted.area, wanted.exempt)


def _cosines(model: TrainingFreeCLIP, params: Mapping[str, Any], dense: jax.Array, text: jax.Array) -> jax.Array:
    return model.apply({"params": params}, dense, text, method=TrainingFreeCLIP.compare)  # type: ignore[return-value]


_compare = Compiled(_cosines, "compare", static=("model",))
