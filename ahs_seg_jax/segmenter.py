"""`Segmenter`: images and class names in, labels out; NumPy at both ends."""

import collections
import dataclasses
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import jax
import numpy as np

from ahs_seg_jax import inference, streaming, tiling
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.models import sharding
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.native_windows import NativeWindows
from ahs_seg_jax.open_image import ImageLike, open_image
from ahs_seg_jax.plan import Plan, make_plan
from ahs_seg_jax.segmentation import Segmentation
from ahs_seg_jax.vocabulary import IGNORE, SCENE_TEMPLATE, Vocabulary

CACHED_VOCABULARIES = 8

Names = Sequence[str] | Vocabulary
Keep = int | Literal["model"] | None
Unknown = str | float | Sequence[str]


class Segmenter:
    """Open-vocabulary segmentation on one device.

    Rotations are merged into the weights once. The text embeddings of the last vocabularies are kept, by names,
    templates and synonym rule, and the features of the last images by their content: other words on the same image
    run the aggregation only. A second image, of any size in the same bucket, compiles nothing.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Mapping[str, Any],
        templates: tuple[str, ...] = (SCENE_TEMPLATE,),
        *,
        protocol: str = "cat_seg",
        keep: Keep = "model",
        memory_gb: float | None = None,
    ):
        """`params` as `AHSSeg(config)` has them, in host or device memory. `templates` make prompts of plain names.

        `protocol` is what calls use unless told otherwise: "cat_seg" (windows and a global view, as in published
        scores) or "whole" (one view, faster). `keep` cuts the classes of each view to those with the largest
        correlation before they are aggregated: "model" is what the model was trained with (256 for the published
        sizes), None keeps all. `memory_gb` bounds the memory of a call (1e9 bytes, an estimate); None sets no bound.
        """
        inference.check_protocol(protocol)
        self.templates, self.protocol = templates, protocol
        model = AHSSeg(config, tpu=sharding.is_tpu())
        self.model, self.params = inference.listed(*inference.merged(model, jax.device_put(params)))
        self.keep, self.memory_gb = self._classes_kept(keep), memory_gb
        self.vocabulary: Vocabulary | None = None
        self._encoded: collections.OrderedDict[Vocabulary, inference.EncodedVocabulary] = collections.OrderedDict()
        self._features = streaming.FeatureCache()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> "Segmenter":
        """From "tiny", a converted directory, a training workdir, a checkpoint file of any known layout, or a hub name.

        "tiny" is the small model of this package, which knows the words of the drawn scenes only. Weights that were
        trained here bring their training's prompt templates and protocol along. `options` are the constructor's.

        Raises CheckpointError if it cannot be read or holds only CLIP, which has nothing that segments.
        """
        from ahs_seg_jax.checkpoints import pretrained  # only here: a model in memory needs no checkpoint reader

        loaded = pretrained.load_pretrained(path)
        if not loaded.is_complete:
            raise CheckpointError(
                f"{path} holds CLIP's weights only; a segmenter needs a trained aggregator as well: "
                "use a CAT-Seg or AHS-Seg checkpoint, or train one that starts from these weights (config.init)"
            )
        training = loaded.manifest.get("training", {})
        templates = tuple(training.get("vocabulary", {}).get("templates", (SCENE_TEMPLATE,)))
        protocol = training.get("config", {}).get("eval", {}).get("protocol", "cat_seg")
        return cls(loaded.config, loaded.params, templates, **({"protocol": protocol} | options))

    # ------------------------------------------------------------------------------------------ images and words

    @overload
    def __call__(
        self,
        images: ImageLike,
        names: Names | None = None,
        *,
        protocol: str | None = None,
        windows: NativeWindows | None = None,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        probabilities: bool = False,
    ) -> Segmentation: ...
    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        names: Names | None = None,
        *,
        protocol: str | None = None,
        windows: NativeWindows | None = None,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        probabilities: bool = False,
    ) -> list[Segmentation]: ...

    def __call__(
        self,
        images: ImageLike | list[Any] | tuple[Any, ...],
        names: Names | None = None,
        *,
        protocol: str | None = None,
        windows: NativeWindows | None = None,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        probabilities: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Segments one image, or a list of images: as `open_image` takes them, each of its own size.

        `names`: one for each class, synonyms after ", "; the words of `set_vocabulary` by default. `unknown`: "none",
        a probability below which a pixel gets the label -1 (`calibrate_unknown` finds one), or a list of background
        words, whose pixels get -1. `probabilities` keeps those of every class. Benchmarks never use `unknown`.
        `windows`, in place of a protocol: windows over each image at its own resolution.

        Raises ValueError, TypeError or FileNotFoundError for images and names that cannot be used, and ValueError if
        the memory bound does not suffice.
        """
        many = isinstance(images, list | tuple)
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        protocol = self.protocol if protocol is None else protocol
        inference.check_protocol(protocol)
        vocabulary, count, threshold = self.words(names, unknown)
        opened = [open_image(image) for image in given]
        if windows is None:
            found = self._by_protocol(opened, vocabulary, count, protocol, class_pooling, probabilities)
        else:
            rasters = map(tiling.ArrayRaster, opened)
            tiles = lambda r: self._tiles(r, vocabulary, windows, class_pooling, probabilities=probabilities)
            found = (tiling.assembled(tiles(raster), raster.size) for raster in rasters)
        results: list[Segmentation] = []
        for source, image, (labels, confidence, kept) in zip(given, opened, found, strict=True):
            labels = np.where((labels >= count) | (confidence < threshold), np.int32(IGNORE), labels)
            source = os.fspath(source) if isinstance(source, str | os.PathLike) else None
            kept = None if kept is None else kept[:count]
            results.append(Segmentation(image, labels, vocabulary.names[:count], confidence, kept, source))
        return results if many else results[0]

    def tiles(
        self,
        raster: tiling.Raster,
        names: Names | None = None,
        windows: NativeWindows | None = None,
        *,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        done: Container[tuple[int, int]] = (),
    ) -> Iterator[tiling.Tile]:
        """The result of an image of any size, tile by tile; neither the image nor the result is ever whole in memory.

        Arguments as in a call. Tiles whose corner (y, x) is among `done` are left out.
        """
        vocabulary, count, threshold = self.words(names, unknown)
        found = self._tiles(raster, vocabulary, windows or NativeWindows(), class_pooling, done, streamed=True)
        for tile in found:
            poor = (tile.labels >= count) | (tile.confidence < threshold)
            yield dataclasses.replace(tile, labels=np.where(poor, np.int32(IGNORE), tile.labels))

    def set_vocabulary(self, names: Names) -> "Segmenter":
        """The words of later calls that name none; encoded now."""
        self.vocabulary = self._as_vocabulary(names)
        self._encode(self.vocabulary)
        return self

    def embed_text(self, names: Names) -> np.ndarray:
        """Text embeddings float32 `[t, e]` of unit length, the prompts of a name averaged."""
        text = self.encode_prompts(self._as_vocabulary(names)).mean(axis=1)
        return text / np.linalg.norm(text, axis=-1, keepdims=True)

    def encode_prompts(self, vocabulary: Vocabulary) -> np.ndarray:
        """Embeddings float32 `[t, p, e]` without padding."""
        encoded = self._encode(vocabulary)
        return np.asarray(encoded.text)[: encoded.count]

    def embed_image(self, image: ImageLike) -> np.ndarray:
        """Dense features float32 `[h, w, e]` of unit length of the whole image, squashed to the model's square.

        Their product with `embed_text` is the cosine of each position with each name.
        """
        features = self._encode_images([open_image(image)], "whole", 1)[0]["dense"][0].astype(np.float32)
        return features / np.linalg.norm(features, axis=-1, keepdims=True)

    def remembers(self, image: ImageLike, protocol: str | None = None) -> bool:
        """Whether the image's features are kept from an earlier call: a call with it then runs the aggregation only."""
        return self._features.get(streaming.content_key(open_image(image), protocol or self.protocol)) is not None

    def plan(
        self,
        size: tuple[int, int],
        classes: int,
        protocol: str | None = None,
        probabilities: bool = False,
        images: int = 1,
        windows: NativeWindows | None = None,
        streamed: bool = False,
    ) -> Plan:
        """What a call with an image of `size` (h, w) and so many classes takes; nothing runs. Raises as the call.

        `streamed`: what `tiles` takes.
        """
        return make_plan(
            self.model.config,
            self.params,
            classes=classes,
            size=size,
            protocol=self.protocol if protocol is None else protocol,
            keep=self.keep,
            memory_gb=self.memory_gb,
            probabilities=probabilities,
            images=images,
            windows=windows,
            streamed=streamed,
        )

    def warmup(
        self, names: Names | None = None, size: tuple[int, int] = (480, 640), protocol: str | None = None
    ) -> None:
        """Compiles everything that images of up to this size (h, w) and so many names need, now rather than later."""
        self(np.zeros((*size, 3), np.uint8), names, protocol=protocol)

    # ------------------------------------------------------------------------------------------ one view, arrays

    def logits(self, image_uint8: np.ndarray, names: Names, class_pooling: int = 1) -> np.ndarray:
        """Logits float32 `[t, 4h, 4w]` of the whole-image view of an image uint8 RGB `[H, W, 3]`.

        A class's probability at a position is the sigmoid of its logit. Raises TypeError or ValueError for an image of
        another type or shape, and for names that are empty, repeated or too long.
        """
        logits, encoded = self._view_logits(image_uint8, names, "whole", class_pooling)
        return np.asarray(logits[0, : encoded.count])

    def predict(
        self, image_uint8: np.ndarray, names: Names, protocol: str = "cat_seg", class_pooling: int = 1
    ) -> np.ndarray:
        """The most probable class of every pixel: int32 `[H, W]`, indices into `names`. Raises as `logits` does.

        `protocol` is "cat_seg" (windows and a global view, as in published scores) or "whole" (one view, faster).
        """
        logits, _ = self._view_logits(image_uint8, names, protocol, class_pooling)
        height, width = image_uint8.shape[:2]
        return np.asarray(inference.label_map(logits, (height, width), protocol))[:height, :width]

    # ------------------------------------------------------------------------------------------ their parts

    def _view_logits(
        self, image: np.ndarray, names: Names, protocol: str, class_pooling: int
    ) -> tuple[jax.Array, inference.EncodedVocabulary]:
        """Logits `[v, T, g, g]`, T = classes padded to a bucket."""
        views = inference.make_views(image, protocol, self.model.config.image.crop)
        encoded = self._encode(self._as_vocabulary(names))
        logits = inference.view_logits(
            self.model, self.params, views[None], encoded.text, encoded.mask, class_pooling=class_pooling
        )
        return logits[0], encoded

    def _as_vocabulary(self, names: Names | None) -> Vocabulary:
        if names is None and self.vocabulary is None:
            raise ValueError("no names: pass a list of class names, or call set_vocabulary once")
        if isinstance(names, str):
            raise TypeError(f"names is the text {names!r}; pass a list of class names, such as [{names!r}]")
        if names is None or isinstance(names, Vocabulary):
            return self.vocabulary if names is None else names  # type: ignore[return-value]
        return Vocabulary(tuple(names), self.templates)

    def _classes_kept(self, keep: Keep) -> int | None:
        if keep == "model":
            return self.model.config.aggregator.pad_len or None
        if keep is None or (isinstance(keep, int) and not isinstance(keep, bool) and keep > 0):
            return keep
        raise ValueError(f"keep is {keep!r}; pass a number of classes, None for all, or 'model' for the model's own")

    def words(self, names: Names | None, unknown: Unknown) -> tuple[Vocabulary, int, float]:
        """The vocabulary with background words behind the names, the number of names, the least probability."""
        vocabulary = self._as_vocabulary(names)
        if isinstance(unknown, str | bool):  # False would be the probability 0
            if unknown != "none":
                raise ValueError(
                    f"unknown is {unknown!r}; pass 'none', a probability such as 0.3, or a list of background words"
                )
            return vocabulary, len(vocabulary), 0.0
        if isinstance(unknown, int | float):
            if not 0 <= unknown <= 1:
                raise ValueError(f"unknown is {unknown}; as a probability it must lie within 0..1")
            return vocabulary, len(vocabulary), float(unknown)
        words = (*vocabulary.names, *unknown)
        return dataclasses.replace(vocabulary, names=words, groups=()), len(vocabulary), 0.0

    def _encode(self, vocabulary: Vocabulary) -> inference.EncodedVocabulary:
        if vocabulary not in self._encoded:
            self._encoded[vocabulary] = inference.encode_vocabulary(self.model, self.params, vocabulary)
        self._encoded.move_to_end(vocabulary)
        while len(self._encoded) > CACHED_VOCABULARIES:
            self._encoded.popitem(last=False)
        return self._encoded[vocabulary]

    def _by_protocol(
        self,
        images: list[np.ndarray],
        vocabulary: Vocabulary,
        count: int,
        protocol: str,
        class_pooling: int,
        probabilities: bool,
    ) -> Iterator[tiling.Found]:
        """Each image's result; views of several images are encoded together. All plans are made first."""
        if not images:
            return
        text = self.encode_prompts(vocabulary)
        largest = max((image.shape[:2] for image in images), key=lambda size: size[0] * size[1])
        steps = self.plan(largest, len(text), protocol, probabilities, len(images))
        together = max(1, steps.at_once // steps.views)
        for start in range(0, len(images), together):
            group = images[start : start + together]
            logits = self._stream(group, text, protocol, class_pooling, steps)
            for image, views in zip(group, np.split(logits, len(group)), strict=True):
                size = image.shape[:2]
                kept = streaming.probabilities(views[:, :count], size, protocol) if probabilities else None
                yield *streaming.labels(views, size, protocol), kept

    def _tiles(
        self,
        raster: tiling.Raster,
        vocabulary: Vocabulary,
        windows: NativeWindows,
        class_pooling: int,
        done: Container[tuple[int, int]] = (),
        probabilities: bool = False,
        streamed: bool = False,
    ) -> Iterator[tiling.Tile]:
        text = self.encode_prompts(vocabulary)
        steps = self.plan(raster.size, len(text), probabilities=probabilities, windows=windows, streamed=streamed)

        def segment(views: np.ndarray) -> np.ndarray:
            features = streaming.encode_views(self.model, self.params, views, steps.at_once)
            return self._logits(features, text, class_pooling, steps)

        return tiling.label_tiles(
            segment,
            raster,
            windows,
            self.model.config.image.crop,
            at_once=steps.at_once,
            columns=steps.columns,
            done=done,
            probabilities=probabilities,
        )

    def _stream(
        self, images: list[np.ndarray], text: np.ndarray, protocol: str, class_pooling: int, steps: Plan
    ) -> np.ndarray:
        """Logits float32 `[n v, t, g, g]` of all views of the images."""
        features = self._encode_images(images, protocol, steps.at_once)
        together = {name: np.concatenate([one[name] for one in features]) for name in features[0]}
        return self._logits(together, text, class_pooling, steps)

    def _logits(self, features: streaming.Features, text: np.ndarray, class_pooling: int, steps: Plan) -> np.ndarray:
        return streaming.segment_views(
            self.model,
            self.params,
            features,
            text,
            keep=self.keep,
            chunk=steps.chunk,
            at_once=steps.at_once,
            pooling=class_pooling,
        )

    def _encode_images(self, images: list[np.ndarray], protocol: str, at_once: int) -> list[streaming.Features]:
        """Features of the views of each image, kept from earlier calls where the image is the same."""
        keys = [streaming.content_key(image, protocol) for image in images]
        found = {key: features for key in keys if (features := self._features.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if new:
            crop = self.model.config.image.crop
            views = [inference.make_views(image, protocol, crop) for image in new.values()]
            features = streaming.encode_views(self.model, self.params, np.concatenate(views), at_once)
            count = len(views[0])
            for place, key in enumerate(new):
                rows = slice(place * count, (place + 1) * count)
                # Copies, so that keeping one image does not keep its whole group.
                found[key] = {name: value[rows].copy() for name, value in features.items()}
                self._features.put(key, found[key])
        return [found[key] for key in keys]
