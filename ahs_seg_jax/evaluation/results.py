"""The outcome of an evaluation: scores, what they are scores of, and the results file."""

import dataclasses
import io
import math
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ahs_seg_jax import threads
from ahs_seg_jax.evaluation import metrics
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary import Vocabulary

BY_OTHER_RULE = f"mIoU_{metrics.LABELLED_OR_PREDICTED}"
_NOT_REPORT = ("scores", "absent_classes", "classes")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores in percent, and everything needed to tell what they are scores of."""

    scores: metrics.Scores
    vocabulary: Vocabulary
    seen: np.ndarray | None  # bool [t], classes of the training vocabulary; None if that is unknown
    unseen: np.ndarray | None  # bool [t], classes outside it; one merged from several predicted classes is in neither
    report: dict[str, Any]  # protocol, checkpoint, data, versions, ...: all of the results file but the scores
    pictures: list[tuple[str, np.ndarray]]  # (random_1, worst_1, best_1, ..., panel uint8 [H, W, 3])
    confusion: np.ndarray | None = None  # int64 [t, t], row = predicted, column = labelled; None if read from the file

    @property
    def miou_seen(self) -> float:
        """mIoU over the classes of the training vocabulary; nan if there are none or they are unknown."""
        return math.nan if self.seen is None else self.scores.mean_iou(self.seen)

    @property
    def miou_unseen(self) -> float:
        """mIoU over the classes outside the training vocabulary; nan if there are none or they are unknown."""
        return math.nan if self.unseen is None else self.scores.mean_iou(self.unseen)

    def named_scores(self) -> dict[str, float]:
        """The scores by name, nan where one does not exist.

        mIoU (by the rule `metrics.LABELLED`), fwIoU, mACC, pACC, mIoU_seen, mIoU_unseen, mIoU_labelled_or_predicted (by
        that rule).
        """
        result = self.scores
        named = {"mIoU": result.miou, "fwIoU": result.fwiou, "mACC": result.macc, "pACC": result.pacc}
        named |= {"mIoU_seen": self.miou_seen, "mIoU_unseen": self.miou_unseen}
        return named | {BY_OTHER_RULE: result.miou_labelled_or_predicted}

    def to_dict(self) -> dict[str, Any]:
        """The results file's content: JSON types only, null for a score that does not exist."""
        classes = [
            {
                "name": name,
                "IoU": _number(self.scores.iou[index]),
                "accuracy": _number(self.scores.accuracy[index]),
                "pixels": int(self.scores.pixels[index]),
                "predicted": int(self.scores.predicted[index]),
                "seen": self._seen(index),
            }
            for index, name in enumerate(self.vocabulary.names)
        ]
        scores = {name: _number(value) for name, value in self.named_scores().items()}
        rules = {"mIoU": metrics.LABELLED, BY_OTHER_RULE: metrics.LABELLED_OR_PREDICTED}
        absent = {name: metrics.ABSENT_RULES[rule] for name, rule in rules.items()}
        return {"scores": scores, "absent_classes": absent, **self.report, "classes": classes}

    def _seen(self, index: int) -> bool | None:
        if self.seen is None or self.unseen is None or not (self.seen[index] or self.unseen[index]):
            return None
        return bool(self.seen[index])

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], vocabulary: Vocabulary) -> "Evaluation":
        """The inverse of `to_dict`, without the pictures. Raises KeyError or ValueError for another file's content."""
        named, classes = content["scores"], content["classes"]
        if [row["name"] for row in classes] != list(vocabulary.names):
            raise ValueError("the classes are not those of the vocabulary")

        def column(name: str) -> np.ndarray:
            return np.array([math.nan if row[name] is None else row[name] for row in classes])

        found = metrics.Scores(
            **{
                name.lower(): math.nan if named[name] is None else named[name]
                for name in ("mIoU", "fwIoU", "mACC", "pACC")
            },
            iou=column("IoU"),
            accuracy=column("accuracy"),
            pixels=column("pixels").astype(np.int64),
            predicted=column("predicted").astype(np.int64),
        )
        known = content["training_vocabulary"] is not None
        seen, unseen = (
            np.array([row["seen"] is value for row in classes]) if known else None for value in (True, False)
        )
        report = {name: value for name, value in content.items() if name not in _NOT_REPORT}
        return cls(found, vocabulary, seen, unseen, report, [])

    def summary(self) -> str:
        """One line for people, with what the scores depend on, and more lines if the evaluation is incomplete."""
        result, report = self.scores, self.report
        split = "" if self.seen is None else f" (seen {_shown(self.miou_seen)}, unseen {_shown(self.miou_unseen)})"
        pooling = "" if "method" in report else f"class pooling {report['class_pooling']}x{report['class_pooling']}, "
        line = (
            f"mIoU {result.miou:.2f}{split}, fwIoU {result.fwiou:.2f}, mACC {result.macc:.2f}, pACC {result.pacc:.2f}: "
            f"protocol {report['protocol']}, {pooling}{report['data']['images']} images, "
            f"{len(self.vocabulary)} classes (vocabulary {self.vocabulary.sha256[:8]}), {report['seconds']:.0f} s"
        )
        expected = report.get("expected")
        return "\n".join(
            [
                line,
                *self._absent_classes(),
                *([f"expected score: {expected['text']}"] if expected else []),
                *(f"INCOMPLETE: {reason}" for reason in report["incomplete"]),
                *(f"BAD DATA: {problem}" for problem in report["data"]["problems"]),
            ]
        )

    def _absent_classes(self) -> list[str]:
        """The line about classes that are predicted and never labelled; none if there is no such class."""
        absent = int(((self.scores.pixels == 0) & (self.scores.predicted > 0)).sum())
        if not absent:
            return []
        line = f"absent classes: {absent} of the classes are predicted but occur in no label; this mIoU leaves them out"
        other = _shown(self.scores.miou_labelled_or_predicted)
        return [f"{line}, by the rule that counts each of them as 0 it is {other}"]

    def write_results(self, path: str | os.PathLike[str]) -> None:
        """Writes the results file (JSON). A run that is killed meanwhile leaves no half file."""
        target = epath.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        writing.write_json(target, self.to_dict(), ensure_ascii=False)

    def write_confusion(self, path: str | os.PathLike[str]) -> None:
        """Writes the confusion matrix, if it is there, with the names of the classes (npz).

        `metrics.scores` makes every score of it.
        """
        if self.confusion is None:
            return
        file = io.BytesIO()
        np.savez_compressed(file, confusion=self.confusion, class_names=np.array(self.vocabulary.names))
        writing.write_bytes(epath.Path(path), file.getvalue())


def vocabulary_report(vocabulary: Vocabulary) -> dict[str, Any]:
    """What tells a vocabulary from another: hash of the names, their number, prompt templates, synonym rule."""
    return {
        "sha256": vocabulary.sha256,
        "classes": len(vocabulary),
        "templates": list(vocabulary.templates),
        "synonyms": vocabulary.synonyms,
    }


def hardware(mesh: Mesh) -> dict[str, Any]:
    """The devices that computed, in words and numbers."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": int(mesh.devices.size),
        "processes": jax.process_count(),
        "cpu_cores": threads.cores(),
        "machine": platform.machine(),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _shown(value: float) -> str:
    """A score for people; a dash where no class has one."""
    return "-" if math.isnan(value) else f"{value:.2f}"
