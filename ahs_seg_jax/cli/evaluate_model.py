"""A checkpoint scored on benchmarks, by what it was trained for or by a training-free method."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.config import DataConfig, EvalConfig
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.evaluation import run as evaluation
from ahs_seg_jax.evaluation.published_methods import Published, published
from ahs_seg_jax.evaluation.score import Weights
from ahs_seg_jax.models.training_free import METHODS, TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.models.training_free.settings import Refine
from ahs_seg_jax.segmenter import Background, Segmenter
from ahs_seg_jax.vocabulary import Vocabulary, imagenet_templates

AS_PUBLISHED = "published"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is scored, from the texts of the options."""

    model: str
    method: str = ""  # a training-free method; "": what the checkpoint holds
    refine: str = AS_PUBLISHED  # of a training-free method
    protocol: str | None = None  # of a trained model; None: its own
    activation: str | None = None  # of a CLIP, where its file does not state it


def run(
    chosen: Chosen, settings: EvalConfig, root: str, workdir: str, read: Callable[[], Pretrained] | None = None
) -> int:
    """Scores every benchmark of the settings; returns the exit code. Raises for what a user can mend.

    `read` gives the checkpoint, where it has been read before.
    """
    check(chosen, settings)
    folder = workdir or f"runs/{short_name(chosen.model)}"
    data = DataConfig(root=root)
    loaded = read or functools.cache(lambda: pretrained.load_pretrained(chosen.model, activation=chosen.activation))
    if not chosen.method and loaded().is_complete:
        settings = dataclasses.replace(settings, protocol=chosen.protocol or loaded().protocol)
        load: Callable[[], Any] = lambda: evaluation.load(chosen.model, chosen.activation)
    else:
        load = lambda: methods(loaded(), chosen)
    return int(evaluation.evaluate_all(settings.benchmarks, data, settings, folder, load))


def check(chosen: Chosen, settings: EvalConfig) -> None:
    """Raises ValueError for a choice that cannot be, before anything is read."""
    if not settings.benchmarks:
        raise ValueError(f"no benchmark: give --benchmark, one of {', '.join(BENCHMARKS)}")
    if chosen.method:
        refined(published(chosen.method, settings.benchmarks[0]), chosen.refine)  # raises for an unknown one
    if chosen.method and chosen.protocol:
        raise ValueError(
            f"--protocol {chosen.protocol} is for trained models; {chosen.method} sees images as its program does"
        )


def short_name(model: str) -> str:
    """A model's name as a folder's: `openai/clip-vit-base-patch16` -> `clip-vit-base-patch16`."""
    return re.sub(r"[^\w.-]+", "_", pathlib.PurePath(model.rstrip("/")).name) or "model"


def refined(found: Published, refine: str) -> Published:
    """With another refinement than the published one. Raises ValueError for an unknown one (`TrainingFree`)."""
    if refine == AS_PUBLISHED:
        return found
    return dataclasses.replace(found, settings=dataclasses.replace(found.settings, refine=cast(Refine, refine)))


def methods(loaded: Pretrained, chosen: Chosen) -> evaluation.WeightsOf:
    """What labels the images of each benchmark by the training-free method, with its settings of that benchmark."""
    method = chosen.method or TrainingFree().method
    TrainingFree(method).taps(loaded.config.image.layers)  # raises where the method cannot run on so many blocks
    params = {"clip": loaded.params["clip"]}

    @functools.lru_cache(maxsize=1)  # one set of weights is in memory, whatever the number of benchmarks
    def segmenter(settings: TrainingFree) -> Segmenter:
        return Segmenter(loaded.config, params, method=settings)

    def weights(name: str, source: Source) -> Weights:
        how = refined(published(method, name), chosen.refine)
        source.vocabulary = dataclasses.replace(
            source.vocabulary, templates=imagenet_templates(), synonyms="best", groups=()
        )
        background = name in BENCHMARKS and BENCHMARKS[name].background_index == 0
        labeller = ByMethod(functools.partial(segmenter, how.settings), how, source.vocabulary, background)
        model = TrainingFreeCLIP(loaded.config, how.settings)
        return Weights(model, params, None, chosen.model, None, labeller)

    return weights


@dataclasses.dataclass(frozen=True)
class ByMethod:
    """A training-free method as `evaluation.predict.Labeller`. With a `background`, the first class is everything else.

    Pixels of the first class's words, those that no class is probable enough for, and those of classes with too small
    an area are background then.
    """

    segmenter: Callable[[], Segmenter]
    how: Published
    vocabulary: Vocabulary
    background: bool

    def described(self) -> dict[str, Any]:
        """See `Labeller`. The short name is the method's, with the refinement where that is not the published one."""
        settings = self.how.settings
        usual = settings.refine == METHODS[settings.method].refinement
        return {
            "protocol": settings.method if usual else f"{settings.method}_{settings.refine}",
            "name": settings.method,
            "settings": dataclasses.asdict(settings),
            "background": {"probability": self.how.probability, "area": self.how.area} if self.background else None,
            "published": self.how.known and usual,
        }

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """See `Labeller`."""
        segmenter = self.segmenter()
        if not self.background:
            return segmenter(image, self.vocabulary).labels
        first, *others = self.vocabulary.names
        names = dataclasses.replace(self.vocabulary, names=tuple(others))
        unknown = Background((first,), self.how.probability, self.how.area)
        return segmenter(image, names, unknown=unknown).labels + 1  # -1, unknown, is class 0
