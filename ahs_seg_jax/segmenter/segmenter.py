"""`Segmenter`: images and class names in, labels out; NumPy at both ends."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import jax
import numpy as np

from ahs_seg_jax.data.open_image import ImageLike, open_image
from ahs_seg_jax.inference import encoding, keeping
from ahs_seg_jax.inference.engine import Engine
from ahs_seg_jax.inference.free_views import free_protocols
from ahs_seg_jax.inference.heads import AGGREGATOR
from ahs_seg_jax.inference.keeping import AUTO_MARGIN, Margin
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.plan import Plan, Request
from ahs_seg_jax.inference.prepared import Prepared
from ahs_seg_jax.inference.protocols import CAT_SEG, PROTOCOLS, Protocol, find_protocol
from ahs_seg_jax.inference.tiles import ArrayRaster, Raster, Tile, assembled
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import AHSSeg, build_model
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.training_free import TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.segmenter.methods import default_method, free_protocol, no_aggregator, only_clip, settings_of
from ahs_seg_jax.segmenter.segmentation import Segmentation
from ahs_seg_jax.segmenter.text_cache import TextCache
from ahs_seg_jax.segmenter.text_cache import default_folder as text_cache_folder
from ahs_seg_jax.segmenter.words import Names, Unknown, Words
from ahs_seg_jax.vocabulary import SCENE_TEMPLATE, Vocabulary, imagenet_templates, plain_name

logger = logging.getLogger("ahs_seg_jax")
Keep = int | Literal["model", "auto"] | Margin | None


class CallOptions(TypedDict, total=False):
    """The options of a call; `Segmenter.__call__` says what each does."""

    protocol: str | Protocol | None
    windows: NativeWindows | None
    class_pooling: int
    unknown: Unknown
    probabilities: bool


class Segmenter:
    """Open-vocabulary segmentation on one device.

    What was encoded is kept for the next call: the last vocabularies, and the features of the last images. Other words
    on the same image run the aggregation only. A second image, of any size in the same bucket, compiles nothing.

    Threads may share a segmenter: they wait for each other, and get the results of calls one after another. The words
    of `set_vocabulary` are shared as well; pass `names` where threads use different ones. A process that is forked
    from one that has used a segmenter must load its own.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Mapping[str, Any],
        templates: tuple[str, ...] | None = None,
        *,
        method: str | TrainingFree = AGGREGATOR,
        protocol: str | Protocol | None = None,
        keep: Keep = "model",
        memory_gb: float | None = None,
        text_cache: bool = True,
    ):
        """`params` as `AHSSeg(config)` has them, in host or device memory; a training-free method needs CLIP's only.

        `method` is "aggregator", what the model was trained for, or a training-free one: "naclip" and others by name,
        with their published numbers, or a `TrainingFree`. `templates` make prompts of plain names; by default CAT-Seg's
        one for an aggregator, and ImageNet's 80 for a training-free method, which averages them.

        `protocol` is what calls use unless told otherwise. For an aggregator: "cat_seg" (windows and a global view, as
        in published scores), or "whole" (one view, faster). For a training-free method, which keeps the picture's
        proportions: "slide" (windows), or "whole". `keep` cuts the classes of each view to those with the largest
        correlation before they are aggregated: "model" is what the model was trained with (256 for the published
        sizes), None keeps all, "auto" as many of the model's as each view needs (docs/many_images.md says how the
        labels agree; a `Margin` decides otherwise). `memory_gb` bounds the memory of a call (1e9 bytes, an estimate);
        None sets no bound.

        `text_cache` keeps the text embeddings of vocabularies of 16 names and more in the user's cache folder, for
        later processes (the environment variable AHS_SEG_TEXT_CACHE names another folder, or is "off").

        Raises ValueError for what cannot be used, as with the chosen method.
        """
        if found := parameters.not_finite(parameters.flatten(params)):
            found_in = parameters.listed(found)
            raise ValueError(f"the parameters hold values that are not finite (NaN or infinity) in {found_in}")
        self.training_free = None if method == AGGREGATOR else settings_of(method, config)
        if self.training_free is None:
            self._protocols: Mapping[str, Protocol] = PROTOCOLS
            self.templates = templates or (SCENE_TEMPLATE,)
            model: AHSSeg | TrainingFreeCLIP = build_model(config)
            kept = _classes_kept(config, keep)
        else:
            if keep != "model":
                raise ValueError(
                    f"keep is {keep!r}; it cuts the classes that a trained aggregator sees, and the training-free "
                    f"method {self.training_free.method} has none: leave it out"
                )
            self._protocols = free_protocols(self.training_free, config.image)
            self.templates = templates or imagenet_templates()
            config, params = only_clip(config), {"clip": params["clip"]}
            model, kept = TrainingFreeCLIP(config, self.training_free), None
        encode, folder = encoding.KnownQueries().encode, text_cache_folder() if text_cache else None
        encode = TextCache(folder, encode=encode).encode if folder else encode
        if config.adaptation == "none":  # before they are on the device, where it would be a program and a copy
            params = encoding.listed(params)
        self.engine = Engine(model, jax.device_put(params), keep=kept, memory_gb=memory_gb, encode=encode)
        default = CAT_SEG if self.training_free is None else next(iter(self._protocols.values()))
        self.protocol: Protocol = default if protocol is None else self._protocol(protocol)
        self.vocabulary: Vocabulary | None = None
        self._alone: set[str] = set()  # names of which it was said that they were the only word
        self.manifest: dict[str, Any] = {}  # where the weights are from, if that is known

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names of the protocols that calls can ask for."""
        return tuple(self._protocols)

    @property
    def method(self) -> str:
        """The name of what segments: "aggregator", or a training-free method."""
        return self.engine.head.name

    @property
    def config(self) -> ModelConfig:
        """The model's configuration, its rotations merged into the weights."""
        return self.engine.model.config

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        method: str | TrainingFree | None = None,
        activation: str | None = None,
        **options: Any,
    ) -> "Segmenter":
        """From "tiny", a name that `ahs-seg models` lists, a folder, a checkpoint file of any known layout, or the hub.

        Folders are converted directories, training workdirs and Hugging Face's; names on the hub are `owner/name`,
        `owner/name@revision`, `owner/name/file`, `hf://spaces/owner/name/file`, or an address of huggingface.co.
        "tiny" is the small model of this package, which knows the words of the drawn scenes only. Weights that were
        trained here bring their training's prompt templates and protocol along. A plain CLIP segments by the
        training-free method "naclip", with another image tower (SigLIP) by "maskclip"; `method` asks for another, or
        for the CLIP inside a trained checkpoint. `activation`, "quick_gelu" or "gelu", is that of CLIP, for files that
        do not state it. `options` are the constructor's.

        Raises CheckpointError if it cannot be read, states another activation, or has no aggregator where that is asked
        for.
        """
        from ahs_seg_jax.checkpoints import pretrained  # only here: Orbax takes a second to import

        loaded = pretrained.load_pretrained(path, activation=activation)
        if method is None:
            method = AGGREGATOR if loaded.is_complete else default_method(loaded.config)
        if method == AGGREGATOR and not loaded.is_complete:
            raise no_aggregator(path)
        if method == AGGREGATOR:
            options = {"templates": loaded.templates, "protocol": loaded.protocol} | options
        segmenter = cls(loaded.config, loaded.params, method=method, **options)
        segmenter.manifest = loaded.manifest
        return segmenter

    def push_to_hub(
        self,
        repository: str,
        results: Sequence[str | os.PathLike[str]] = (),
        *,
        licence: str = "",
        private: bool = False,
    ) -> str:
        """Publishes the model as `owner/name` on the Hugging Face hub; returns the address of its page.

        `from_pretrained("owner/name")` reads it back, exactly: weights (rotations merged), prompts and protocol.
        `results` are results files of evaluations, which the model's card shows. `licence` is one of the hub's names,
        such as "mit". Raises CheckpointError as `checkpoints.published.publish`, ValueError by a training-free method.
        """
        if self.training_free:
            raise ValueError(
                f"the training-free method {self.method} runs on a CLIP that was trained by others, and this program "
                "publishes models that it has trained; give the CLIP's own address to others"
            )
        from ahs_seg_jax.checkpoints import published  # only here: what is not published needs none of it

        files = [pathlib.Path(path) for path in results]
        loaded = published.of_memory(
            self.config, encoding.stacked(self.engine.params), self.manifest, self.templates, self.protocol.name
        )
        return published.publish(loaded, repository, files, licence=licence, private=private)

    # ------------------------------------------------------------------------------------------ images and words

    @overload
    def __call__(
        self, images: ImageLike | Prepared, names: Names | None = None, **options: Unpack[CallOptions]
    ) -> Segmentation: ...
    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], names: Names | None = None, **options: Unpack[CallOptions]
    ) -> list[Segmentation]: ...

    def __call__(
        self,
        images: ImageLike | Prepared | list[Any] | tuple[Any, ...],
        names: Names | None = None,
        *,
        protocol: str | Protocol | None = None,
        windows: NativeWindows | None = None,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        probabilities: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Segments one image, or a list of images: as `open_image` takes them, or `prepare`d, each of its own size.

        `names`: one for each class, synonyms after ", "; the words of `set_vocabulary` by default. Blanks around a name
        and a full stop behind it are left out; a `Vocabulary` is taken as it is. `unknown`: "none", a probability below
        which a pixel gets the label -1 (`calibrate_unknown` finds one), a list of background words, whose pixels get
        -1, or a `Background`, which has both. By a training-free method probabilities are shares of all words, so that
        a threshold depends on them. `probabilities` keeps those of every class.
        `windows`, in place of a protocol: windows over each image at its own resolution.

        Raises ValueError, TypeError or FileNotFoundError for images and names that cannot be used, and ValueError if
        the memory bound does not suffice.
        """
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        seen_by, words = self._protocol(protocol), self.words(names, unknown)
        opened = [image if isinstance(image, Prepared) else open_image(image) for image in given]
        pixels = [image.image if isinstance(image, Prepared) else image for image in opened]
        text = self.engine.encode_text(words.vocabulary)
        options: dict[str, Any] = {"class_pooling": class_pooling, "classes": words.vocabulary.query_class}
        if windows is None:
            options |= {"area": words.area, "exempt": words.background}
            wanted = words.count if probabilities else 0
            found = self.engine.label(opened, text, seen_by, probabilities=wanted, **options)
        else:
            self._check_windows(words)
            options["probabilities"] = probabilities
            rasters = map(ArrayRaster, pixels)
            found = (assembled(self.engine.tiles(raster, text, windows, **options), raster.size) for raster in rasters)
        results: list[Segmentation] = []
        for source, image, (labels, confidence, kept) in zip(given, pixels, found, strict=True):
            path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
            kept = None if kept is None else kept[: words.count]
            names_shown = words.vocabulary.names[: words.count]
            results.append(Segmentation(image, words.known(labels, confidence), names_shown, confidence, kept, path))
        return results if isinstance(images, list | tuple) else results[0]

    def prepare(self, image: ImageLike, protocol: str | Protocol | None = None) -> Prepared:
        """The image for a call, opened and with all that needs no device done; calls take it in place of the image.

        Any thread may prepare the next image while a call segments another, so that a device never waits for files.
        Raises as a call does for images.
        """
        return self.engine.prepared(open_image(image), self._protocol(protocol)).prepare()

    def tiles(
        self,
        raster: Raster,
        names: Names | None = None,
        windows: NativeWindows | None = None,
        *,
        class_pooling: int = 1,
        unknown: Unknown = "none",
        done: Container[tuple[int, int]] = (),
    ) -> Iterator[Tile]:
        """The result of an image of any size, tile by tile; neither the image nor the result is ever whole in memory.

        Arguments as in a call. Tiles whose corner (y, x) is among `done` are left out.
        """
        words, windows = self.words(names, unknown), windows or NativeWindows()
        self._check_windows(words)
        text, classes = self.engine.encode_text(words.vocabulary), words.vocabulary.query_class
        options: dict[str, Any] = {"class_pooling": class_pooling, "classes": classes, "done": done}
        found = self.engine.tiles(raster, text, windows, streamed=True, **options)
        for tile in found:
            yield dataclasses.replace(tile, labels=words.known(tile.labels, tile.confidence))

    def set_vocabulary(self, names: Names) -> "Segmenter":
        """The words of later calls that name none; encoded now."""
        self.vocabulary = self.as_vocabulary(names)
        self.engine.encode_text(self.vocabulary)
        return self

    def logits(self, image: ImageLike, names: Names | None = None, *, class_pooling: int = 1) -> np.ndarray:
        """Logits float32 `[q, 4h, 4w]` of one view, the whole image squashed to the model's square.

        A class's probability at a position is the sigmoid of its logit; a class that was cut (`keep`) has -100. By a
        training-free method: the cosines `[q, h, w]` of each query with the grid of the whole resized image. Raises as
        a call does.
        """
        text = self.engine.encode_text(self.as_vocabulary(names))
        return self.engine.logits(open_image(image), text, self._protocols["whole"], class_pooling=class_pooling)[0]

    def embed_text(self, names: Names) -> np.ndarray:
        """Text embeddings float32 `[q, e]` of unit length, the prompts of a name, or of a query, averaged."""
        text = self.encode_prompts(self.as_vocabulary(names)).mean(axis=1)
        return text / np.linalg.norm(text, axis=-1, keepdims=True)

    def encode_prompts(self, vocabulary: Vocabulary) -> np.ndarray:
        """Embeddings float32 `[t, p, e]` of every prompt."""
        return self.engine.encode_text(vocabulary)

    def embed_image(self, image: ImageLike) -> np.ndarray:
        """Dense features float32 `[h, w, e]` of unit length of the whole image, as one view.

        Their product with `embed_text` is the cosine of each position with each name.
        """
        features = np.asarray(self.engine.features(open_image(image), self._protocols["whole"])["dense"][0], np.float32)
        return features / np.linalg.norm(features, axis=-1, keepdims=True)

    def remembers(self, image: ImageLike, protocol: str | Protocol | None = None) -> bool:
        """Whether the image's features are kept from an earlier call: a call with it then runs the aggregation only."""
        return self.engine.remembers(open_image(image), self._protocol(protocol))

    def plan(
        self,
        size: tuple[int, int],
        classes: int,
        protocol: str | Protocol | None = None,
        probabilities: bool = False,
        images: int = 1,
        windows: NativeWindows | None = None,
        streamed: bool = False,
    ) -> Plan:
        """What a call with an image of `size` (h, w) and this many classes takes; nothing runs. Raises as the call.

        `streamed`: what `tiles` takes.
        """
        seen_by = windows or self._protocol(protocol)
        return self.engine.plan(Request(size, classes, seen_by, self.engine.keep, images, probabilities, streamed))

    def warmup(
        self, names: Names | None = None, size: tuple[int, int] = (480, 640), protocol: str | Protocol | None = None
    ) -> None:
        """Compiles everything that images of up to this size (h, w) and this many names need, now rather than later."""
        self(np.zeros((*size, 3), np.uint8), names, protocol=protocol)

    def words(self, names: Names | None, unknown: Unknown = "none") -> Words:
        """The words of a call, with background words behind the names. Raises ValueError or TypeError."""
        words = Words.of(self.as_vocabulary(names), unknown)
        name = words.vocabulary.names[0]
        if self.training_free and len(words.vocabulary.query_class) == 1 and name not in self._alone:
            self._alone.add(name)  # said once, not of every image
            logger.warning(
                "%s is the only word, and %s shares all probability among the words, so every pixel gets it: give "
                "other names, or background words with unknown=['sky', 'wall', ...]",
                name,
                self.method,
            )
        return words

    def as_vocabulary(self, names: Names | None) -> Vocabulary:
        """The names with this segmenter's prompt templates and synonym rule; None: those of `set_vocabulary`."""
        if names is None and self.vocabulary is None:
            raise ValueError("no names: pass a list of class names, or call set_vocabulary once")
        if isinstance(names, str):
            raise TypeError(f"names is the text {names!r}; pass a list of class names, such as [{names!r}]")
        if names is None or isinstance(names, Vocabulary):
            return self.vocabulary if names is None else names  # type: ignore[return-value]
        return Vocabulary(
            tuple(map(plain_name, names)), self.templates, "first" if self.training_free is None else "best"
        )

    # ------------------------------------------------------------------------------------------ their parts

    def _protocol(self, protocol: str | Protocol | None) -> Protocol:
        if protocol is None:
            return self.protocol
        if self.training_free is None:
            return find_protocol(protocol)
        return free_protocol(protocol, self._protocols, self.method)

    def _check_windows(self, words: Words) -> None:
        """Raises ValueError for what needs the whole image, which native windows never have."""
        if words.area:
            raise ValueError("a background's area needs the whole image; native windows take words and a probability")
        if self.training_free and self.training_free.refine not in ("auto", "none"):
            raise ValueError(
                f"refine is {self.training_free.refine!r}, which needs the whole image; with native windows use "
                "refine='none', or 'auto', which does not refine them"
            )


def _classes_kept(config: ModelConfig, keep: Keep) -> keeping.Keep:
    most = config.aggregator.pad_len or None
    if keep in ("model", "auto"):
        return most if keep == "model" else Margin(AUTO_MARGIN, most)
    if keep is None or isinstance(keep, Margin) or (isinstance(keep, int) and not isinstance(keep, bool) and keep > 0):
        return keep
    raise ValueError(
        f"keep is {keep!r}; pass a number of classes, None for all, 'model' for the model's own, or 'auto'"
    )
