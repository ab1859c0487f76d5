"""FiftyOne: a model for `apply_model`, whose masks count the names from 1 (0 is FiftyOne's background: no name).

    import fiftyone as fo
    from integrations.fiftyone_model import OpenVocabularyModel

    dataset = fo.Dataset.from_images_dir("photos/")
    model = OpenVocabularyModel(["cat", "sofa, couch"], "runs/vitb")
    dataset.apply_model(model, label_field="words", batch_size=8)
    dataset.mask_targets["words_segmentation"] = model.mask_targets    # the names, by the numbers of the masks
    dataset.save()

It fills two fields: `words_segmentation`, and `words_confidence`, a heat map of the probability of each pixel's name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from ahs_seg_jax.segmenter import Segmentation, Segmenter
from ahs_seg_jax.segmenter.words import Unknown


class OpenVocabularyModel(fo.Model):
    """Segments images by `names` with a model as `Segmenter.from_pretrained` takes it."""

    def __init__(self, names: Sequence[str], model: str = "tiny", unknown: Unknown = "none", **options: Any):
        """`unknown` as a call of a Segmenter takes it; `options` are those of `Segmenter.from_pretrained`."""
        self._segmenter = Segmenter.from_pretrained(model, **options)
        self._words = self._segmenter.set_vocabulary(names).vocabulary
        self._unknown = unknown

    @property
    def media_type(self) -> str:
        """Images only."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Images of a batch may have different sizes: nothing transforms them before they come here."""
        return False

    @property
    def transforms(self) -> None:
        """None: images are taken as they are."""

    @property
    def preprocess(self) -> bool:
        """Nothing to apply."""
        return False

    @property
    def mask_targets(self) -> dict[int, str]:
        """The name of each number in the masks; `dataset.mask_targets` takes it."""
        assert self._words is not None
        return dict(enumerate(self._words.names, 1))

    def predict(self, arg: np.ndarray) -> dict[str, fo.Label]:
        """Labels of an image uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[np.ndarray]) -> list[dict[str, fo.Label]]:
        """Labels of several images, in one call of the segmenter."""
        return [_labels(result) for result in self._segmenter(list(args), unknown=self._unknown)]


def _labels(result: Segmentation) -> dict[str, fo.Label]:
    numbers = (result.labels + 1).astype(np.uint8 if len(result.names) < 256 else np.uint16)
    return {
        "segmentation": fo.Segmentation(mask=numbers),
        "confidence": fo.Heatmap(map=result.confidence, range=[0, 1]),
    }
