"""The classes that are scored: the predicted ones, or what a data set merges them into."""

import dataclasses

import numpy as np

from ahs_seg_jax.data.source import Source
from ahs_seg_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class ScoredClasses:
    """Axes: t predicted class, s scored class. `merge` int32 `[t]` maps predicted to scored classes; None: equal."""

    vocabulary: Vocabulary
    merge: np.ndarray | None

    @classmethod
    def of(cls, source: Source) -> "ScoredClasses":
        """From the source's `merge_predictions` int32 `[t]` and `scored_names`, where it has them (voc_20b: 59 to 21).

        Raises ValueError if they do not fit its vocabulary.
        """
        predicted = source.vocabulary
        merge, names = getattr(source, "merge_predictions", None), getattr(source, "scored_names", None)
        if merge is None or names is None:
            return cls(predicted, None)
        merge = np.asarray(merge, np.int32)
        if merge.shape != (len(predicted),) or set(merge.tolist()) != set(range(len(names))):
            raise ValueError(
                f"merge_predictions has shape {list(merge.shape)} and {len(set(merge.tolist()))} different values; it "
                f"must map each of {len(predicted)} predicted classes to one of {len(names)} scored ones, and reach all"
            )
        return cls(Vocabulary(tuple(names), templates=predicted.templates), merge)

    def __call__(self, prediction: np.ndarray) -> np.ndarray:
        """Predicted classes, int32 of any shape, as scored classes."""
        return prediction if self.merge is None else self.merge[prediction]

    def seen(self, predicted: Vocabulary, training: Vocabulary | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(seen, unseen), bool `[s]` each, against a training vocabulary. A class merged from several is neither.

        Both are None if there is no training vocabulary to compare with.
        """
        if training is None:
            return None, None
        known = predicted.seen_by(training)
        if self.merge is None:
            return known, ~known
        alone = np.bincount(self.merge) == 1
        has_known = np.bincount(self.merge, weights=known) > 0
        return alone & has_known, alone & ~has_known
