"""Confusion matrix of a whole evaluation set and the scores that follow from it.

Axes: t class. Labels and predictions are class indices; -1 in the labels is unlabelled and never counted.

A class that no pixel is labelled with has no IoU. Published programs differ in what it does to mIoU (`ABSENT_RULES`),
so both means are computed.
"""

import dataclasses

import numpy as np

LABELLED, LABELLED_OR_PREDICTED = "labelled", "labelled_or_predicted"
ABSENT_RULES = {
    LABELLED: "mean over the classes that occur in the labels (Detectron2 after v0.6); the default",
    LABELLED_OR_PREDICTED: (
        "mean over the classes that occur in the labels or in the predictions, where a class that is only predicted "
        "counts as 0 (Detectron2 up to v0.6, mmsegmentation)"
    ),
}


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of pixels, int64 `[t, t]`: row = predicted class, column = labelled class.

    `label` int `[...]` in -1..t-1, where -1 is left out; `prediction` int of the same shape in 0..t-1.
    Matrices of several images add up. Parity: golden/metrics.npz without its row and column of ignored pixels.

    Raises ValueError for different shapes or a value out of range.
    """
    if label.shape != prediction.shape:
        raise ValueError(
            f"labels have shape {label.shape} but predictions {prediction.shape}; both must cover the same pixels"
        )
    counted = label != -1
    columns, rows = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for kind, values, lowest in (("label", columns, -1), ("prediction", rows, 0)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"{kind} value {wrong} is outside {lowest}..{num_classes - 1} ({num_classes} classes)")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores in percent. A class without a labelled pixel has nan and takes no part in the means."""

    miou: float  # mean intersection over union
    fwiou: float  # the same mean, weighted by each class's share of the labelled pixels
    macc: float  # mean share of a class's pixels that were found
    pacc: float  # share of all labelled pixels that are right
    iou: np.ndarray  # float64 [t]
    accuracy: np.ndarray  # float64 [t]
    pixels: np.ndarray  # int64 [t], labelled pixels of each class: the histogram of the labels
    predicted: np.ndarray  # int64 [t], labelled pixels that were predicted to be of each class

    @property
    def miou_labelled_or_predicted(self) -> float:
        """mIoU by the rule `LABELLED_OR_PREDICTED`: at most `miou`, which is by the rule `LABELLED`."""
        present = self.pixels > 0
        counted = int((present | (self.predicted > 0)).sum())
        return float(self.iou[present].sum() / counted) if counted else float("nan")

    def mean_iou(self, selected: np.ndarray) -> float:
        """mIoU over the classes where `selected` (bool `[t]`) holds and that occur in the labels; nan if none does."""
        return _mean(self.iou[selected & (self.pixels > 0)])


def scores(confusion: np.ndarray) -> Scores:
    """Scores of a confusion matrix `[t, t]` (row = predicted, column = labelled). Parity: golden/metrics.npz."""
    right = np.diagonal(confusion).astype(np.float64)
    pixels, predicted = confusion.sum(axis=0), confusion.sum(axis=1)
    present = pixels > 0
    iou, accuracy = np.full(right.shape, np.nan), np.full(right.shape, np.nan)
    iou[present] = 100.0 * right[present] / (pixels + predicted - right)[present]
    accuracy[present] = 100.0 * right[present] / pixels[present]
    total = int(pixels.sum())
    return Scores(
        miou=_mean(iou[present]),
        fwiou=float((iou[present] * pixels[present]).sum() / total) if total else float("nan"),
        macc=_mean(accuracy[present]),
        pacc=float(100.0 * right.sum() / total) if total else float("nan"),
        iou=iou,
        accuracy=accuracy,
        pixels=pixels,
        predicted=predicted,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
