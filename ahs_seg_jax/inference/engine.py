"""The engine: from images and class names to labels, logits and tiles. It owns the model, its weights and both caches.

The way of the data, all of it on the device: views -> features -> passes of class chunks -> logits -> labels. Only
labels, confidences and probabilities come back to the host, and what a caller asks for.

Axes: v view, t class, p prompt, e joint embedding, g side of the logits.
"""

import collections
import os
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.inference import encoding, in_passes, labelling
from ahs_seg_jax.inference.at_once import view_logits
from ahs_seg_jax.inference.feature_cache import FeatureCache, content_key
from ahs_seg_jax.inference.heads import Wanted, head_of
from ahs_seg_jax.inference.in_passes import Features, ViewLogits
from ahs_seg_jax.inference.keeping import Keep
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.plan import Plan, Request
from ahs_seg_jax.inference.prepared import Prepared
from ahs_seg_jax.inference.protocols import Blended, Protocol
from ahs_seg_jax.inference.tiles import Found, Raster, Tile, label_tiles
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.vocabulary import Vocabulary

CACHED_VOCABULARIES = 8


class Engine:
    """A model that is ready to segment.

    Rotations are merged into the weights once. The text embeddings of the last vocabularies are kept, by names,
    templates and synonym rule, and the features of the last images, by their content. One lock serves all calls:
    threads that share an engine wait for each other, image by image, and get the results of calls one after another.
    """

    def __init__(
        self,
        model: AHSSeg | TrainingFreeCLIP,
        params: Mapping[str, Any],
        *,
        keep: Keep = None,
        memory_gb: float | None = None,
        few_images: bool = True,
        encode: Callable[[Any, Any, Vocabulary], Any] = encoding.encode_vocabulary,
    ) -> None:
        """`params` as `model` has them, on the device or devices where they shall be used.

        `keep` says which classes each view keeps (a number, a margin, or None: all), `memory_gb` the bound of a call's
        memory in 1e9 bytes (None: no bound; ValueError for what is no bound). `few_images` lays the weights out for a
        few images at a time on one device. `encode` makes the text embeddings of a vocabulary, given the merged model
        and its parameters.
        """
        self.model, merged = encoding.merged(model, params)
        self.params = encoding.listed(merged) if few_images else merged
        if memory_gb is not None and not memory_gb >= 0:  # NaN is compared with nothing
            raise ValueError(f"memory_gb is {memory_gb}; give a number of 1e9 bytes, or none for no bound")
        self.head = head_of(self.model)
        self.keep, self.memory_gb = keep, memory_gb
        self._texts: collections.OrderedDict[Vocabulary, np.ndarray] = collections.OrderedDict()
        self._encode_vocabulary, self._features = encode, FeatureCache()
        self._lock, self._process = threading.RLock(), os.getpid()

    def encode_text(self, vocabulary: Vocabulary) -> np.ndarray:
        """Text embeddings float32 `[q, p, e]` of a vocabulary's queries.

        Raises ValueError for names or prompts that the model cannot take.
        """
        with self._locked():
            if vocabulary not in self._texts:
                self._texts[vocabulary] = np.asarray(self._encode_vocabulary(self.model, self.params, vocabulary))
            self._texts.move_to_end(vocabulary)
            while len(self._texts) > CACHED_VOCABULARIES:
                self._texts.popitem(last=False)
            return self._texts[vocabulary]

    def plan(self, request: Request) -> Plan:
        """What the request takes; nothing runs. Raises ValueError if the memory bound does not suffice."""
        return self.head.plan(self.params, request, self.memory_gb)

    def prepared(self, image: np.ndarray | Prepared, protocol: Protocol) -> Prepared:
        """The image uint8 `[H, W, 3]` for this protocol, or the very same where it is that already."""
        if isinstance(image, Prepared):
            if image.protocol == protocol:
                return image
            image = image.image
        return Prepared(image, protocol, self.head.side)

    def label(
        self,
        images: Sequence[np.ndarray | Prepared],
        text: np.ndarray,
        protocol: Protocol,
        *,
        class_pooling: int = 1,
        probabilities: int = 0,
        classes: np.ndarray | None = None,
        area: float = 0.0,
        exempt: Sequence[int] = (),
    ) -> Iterator[Found]:
        """Labels int32 and confidence float32 `[H, W]` of each image uint8 `[H, W, 3]`, for text `[q, p, e]`.

        An image may be `prepared` before.

        Labels are classes: `classes` int32 `[q]`, ascending, says which one each query belongs to (None: every query is
        one). The third of each result are the probabilities float32 `[n, H, W]` of the first n = `probabilities`
        classes, or None for 0. A class that has at most the share `area` of the pixels of all classes but the `exempt`
        ones gives them up to other classes. Views of several images are computed together.
        """
        if not images:
            return
        self.head.check_pooling(class_pooling)
        every = np.arange(len(text), dtype=np.int32) if classes is None else classes
        wanted = Wanted(every, probabilities, area, exempt)
        given = [self.prepared(image, protocol) for image in images]
        largest = max((each.image.shape[:2] for each in given), key=lambda size: size[0] * size[1])
        request = Request(largest, len(text), protocol, self.keep, len(given), bool(probabilities))
        plan = self.plan(request)
        for group in self._groups(given, protocol, plan):
            with self._locked():
                logits = self._logits(group, text, class_pooling, plan)
                found = [
                    self.head.found(of_image, each.image, text, protocol, wanted)
                    for each, of_image in zip(group, logits, strict=True)
                ]
            yield from found

    def logits(self, image: np.ndarray, text: np.ndarray, protocol: Protocol, *, class_pooling: int = 1) -> np.ndarray:
        """Logits float32 `[v, q, g, g]` of an image uint8 `[H, W, 3]`; -100 for a class that a view cut."""
        self.head.check_pooling(class_pooling)
        plan = self.plan(Request(image.shape[:2], len(text), protocol, self.keep))
        with self._locked():
            (logits,) = self._logits([self.prepared(image, protocol)], text, class_pooling, plan)
            return np.asarray(logits.of(np.arange(len(text))))

    def tiles(
        self,
        raster: Raster,
        text: np.ndarray,
        windows: NativeWindows,
        *,
        class_pooling: int = 1,
        classes: np.ndarray | None = None,
        done: Container[tuple[int, int]] = (),
        probabilities: bool = False,
        streamed: bool = False,
    ) -> Iterator[Tile]:
        """The result of an image by windows at its own resolution, tile by tile; see `label_tiles` and `label`."""
        self.head.check_pooling(class_pooling)
        request = Request(raster.size, len(text), windows, self.keep, probabilities=probabilities, streamed=streamed)
        plan = self.plan(request)

        def segment(views: np.ndarray) -> ViewLogits:
            with self._locked():
                features = in_passes.encode_views(self.model, self.params, views, plan.at_once)
                return self._segment(features, text, class_pooling, plan)

        return label_tiles(
            segment,
            raster,
            windows,
            self.head.side,
            classes=np.arange(len(text), dtype=np.int32) if classes is None else classes,
            logit_scale=self.head.logit_scale,
            at_once=plan.at_once,
            columns=plan.columns,
            done=done,
            probabilities=probabilities,
        )

    def label_maps(
        self,
        views: jax.Array,
        text: jax.Array,
        mask: np.ndarray,
        sizes: Sequence[tuple[int, int]],
        protocol: Blended,
        *,
        class_pooling: int,
        mesh: jax.sharding.Mesh,
    ) -> list[jax.Array]:
        """Padded label maps int32 `[H', W']` of a batch of images, spread over a mesh; for evaluations.

        `views` `[b, v, s, s, 3]` of all images of all processes, `sizes` (H, W) of this process's images, in the order
        of its rows. All classes are computed in one program. Returns before the devices have finished.
        """
        logits = view_logits(self.model, self.params, views, text, mask, class_pooling=class_pooling, mesh=mesh)
        # Label maps depend on each image's size: they are made where its logits lie, one image at a time.
        shards = sorted(logits.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        own = (image for shard in shards for image in shard.data)
        return [labelling.label_map(image, size, protocol) for size, image in zip(sizes, own, strict=False)]

    def features(self, image: np.ndarray, protocol: Protocol) -> Features:
        """Features of the views of an image, kept for later calls with the same image."""
        with self._locked():
            return self._encode([self.prepared(image, protocol)], 1)[0]

    def remembers(self, image: np.ndarray, protocol: Protocol) -> bool:
        """Whether the image's features are kept from an earlier call: a call with it then runs the aggregation only."""
        return self._features.get(content_key(image, protocol)) is not None

    # ------------------------------------------------------------------------------------------ their parts

    def _locked(self) -> threading.RLock:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this model was loaded in process {self._process} and is used in process {os.getpid()}, a fork of it, "
                "where JAX would hang: load the model in each process, or start processes by multiprocessing's 'spawn'"
            )
        return self._lock

    def _logits(self, images: Sequence[Prepared], text: np.ndarray, class_pooling: int, plan: Plan) -> list[ViewLogits]:
        """The logits of each image; all views must have one shape."""
        features = self._encode(images, plan.at_once)
        every = self._segment(in_passes.joined(features), text, class_pooling, plan)
        stops = np.cumsum([len(of_image["dense"]) for of_image in features])
        slices = [slice(stop - len(of_image["dense"]), stop) for stop, of_image in zip(stops, features, strict=True)]
        return [ViewLogits(every.values, every.rows[rows], every.places[rows]) for rows in slices]

    def _segment(self, features: Features, text: np.ndarray, class_pooling: int, plan: Plan) -> ViewLogits:
        return self.head.segment(self.params, features, text, keep=self.keep, planned=plan, pooling=class_pooling)

    def _groups(self, images: Sequence[Prepared], protocol: Protocol, plan: Plan) -> Iterator[list[Prepared]]:
        """Images whose views are computed together: consecutive ones whose views have one shape."""
        group: list[Prepared] = []
        views, shape = 0, None
        for image in images:
            count, *of_view = protocol.views_shape(self.head.side, image.image.shape[:2])
            if group and (of_view != shape or views + count > plan.at_once * self.head.together):
                yield group
                group, views = [], 0
            group.append(image)
            views, shape = views + count, of_view
        yield group

    def _encode(self, images: Sequence[Prepared], at_once: int) -> list[Features]:
        """Features of the views of each image, kept from earlier calls where the image is the same."""
        keys = [image.key for image in images]
        found = {key: features for key in keys if (features := self._features.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        if new:
            views = [image.take_views() for image in new.values()]
            features = in_passes.encode_views(
                self.model, self.params, np.concatenate(views), at_once, self.head.same_groups
            )
            stops = np.cumsum([len(of_image) for of_image in views])
            for key, stop, of_image in zip(new, stops, views, strict=True):
                # Arrays of its own, so that keeping one image does not keep the whole group.
                found[key] = in_passes.take_rows(features, np.arange(stop - len(of_image), stop))
                self._features.put(key, found[key])
        return [found[key] for key in keys]
