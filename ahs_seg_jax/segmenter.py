"""`Segmenter`: an image and class names in, labels out; NumPy at both ends."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ahs_seg_jax import inference
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.vocabulary import SCENE_TEMPLATE, Vocabulary

CACHED_VOCABULARIES = 8


class Segmenter:
    """Open-vocabulary segmentation of single images on one device.

    Rotations are merged into the weights once. The text embeddings of the last vocabularies are kept, by names, templates
    and synonym rule. A second image, of any size in the same bucket, compiles nothing.
    """

    def __init__(self, config: ModelConfig, params: Mapping[str, Any], templates: tuple[str, ...] = (SCENE_TEMPLATE,)):
        """`params` as `AHSSeg(config)` has them, in host or device memory. `templates` make prompts of plain names."""
        self.templates = templates
        self.model, self.params = inference.merged(AHSSeg(config), jax.device_put(params))
        self._encoded: collections.OrderedDict[Vocabulary, inference.EncodedVocabulary] = collections.OrderedDict()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> "Segmenter":
        """From a converted directory, a training workdir, a checkpoint file of any known layout, or a hub name.

        Weights that were trained here bring the prompt templates of their training along. Raises CheckpointError if it cannot be read or holds only CLIP, which has nothing that segments.
        """
        from ahs_seg_jax.checkpoints import pretrained  # only here: a model in memory needs no checkpoint reader

        loaded = pretrained.load_pretrained(path)
        if not loaded.is_complete:
            raise CheckpointError(
                f"{path} holds CLIP's weights only; a segmenter needs a trained aggregator as well: "
                "use a CAT-Seg or AHS-Seg checkpoint, or train one that starts from these weights (config.init)"
            )
        trained = loaded.manifest.get("training", {}).get("vocabulary", {})
        return cls(loaded.config, loaded.params, tuple(trained.get("templates", (SCENE_TEMPLATE,))))

    def logits(self, image_uint8: np.ndarray, names: Sequence[str] | Vocabulary, class_pooling: int = 1) -> np.ndarray:
        """Logits float32 `[t, 4h, 4w]` of the whole-image view of an image uint8 RGB `[H, W, 3]`.

        A class's probability at a position is the sigmoid of its logit. Raises TypeError or ValueError for an image of
        another type or shape, and for names that are empty, repeated or too long.
        """
        logits, encoded = self._view_logits(image_uint8, names, "whole", class_pooling)
        return np.asarray(logits[0, : encoded.count])

    def predict(
        self,
        image_uint8: np.ndarray,
        names: Sequence[str] | Vocabulary,
        protocol: str = "cat_seg",
        class_pooling: int = 1,
    ) -> np.ndarray:
        """The most probable class of every pixel: int32 `[H, W]`, indices into `names`. Raises as `logits` does.

        `protocol` is "cat_seg" (windows and a global view, as in published scores) or "whole" (one view, faster).
        """
        logits, _ = self._view_logits(image_uint8, names, protocol, class_pooling)
        height, width = image_uint8.shape[:2]
        return np.asarray(inference.label_map(logits, (height, width), protocol))[:height, :width]

    def _view_logits(
        self, image: np.ndarray, names: Sequence[str] | Vocabulary, protocol: str, class_pooling: int
    ) -> tuple[jax.Array, inference.EncodedVocabulary]:
        """Logits `[v, T, g, g]`, T = classes padded to a bucket."""
        views = inference.make_views(image, protocol, self.model.config.image.crop)
        encoded = self._encode(names)
        logits = inference.view_logits(
            self.model, self.params, views[None], encoded.text, encoded.mask, class_pooling=class_pooling
        )
        return logits[0], encoded

    def _encode(self, names: Sequence[str] | Vocabulary) -> inference.EncodedVocabulary:
        if isinstance(names, str):
            raise TypeError(f"names is the text {names!r}; pass a list of class names, such as [{names!r}]")
        vocabulary = names if isinstance(names, Vocabulary) else Vocabulary(tuple(names), self.templates)
        if vocabulary not in self._encoded:
            self._encoded[vocabulary] = inference.encode_vocabulary(self.model, self.params, vocabulary)
        self._encoded.move_to_end(vocabulary)
        while len(self._encoded) > CACHED_VOCABULARIES:
            self._encoded.popitem(last=False)
        return self._encoded[vocabulary]
