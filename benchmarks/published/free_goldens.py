"""Files of numbers of the published training-free programs, and ours stage by stage, from the image to the labels.

`training_free_small.npz` is among the tests; a larger one of the same kind may lie anywhere.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import cosine_labels, mosaic, refining
from ahs_seg_jax.inference.cosine_labels import Picture
from ahs_seg_jax.inference.free_views import FreeViews
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig
from ahs_seg_jax.models.training_free import TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a file: what the published program was asked for, and its numbers."""

    settings: dict[str, Any]
    numbers: dict[str, np.ndarray]
    samples: dict[str, int]

    @property
    def method(self) -> TrainingFree:
        """The settings that are the method's."""
        s = self.settings
        more: dict[str, Any] = {"gaussian_std": s["gaussian_std"]} if s["gaussian_std"] else {}
        if s["pearl"]:
            more |= {"pearl_alpha": s["pearl"]["alpha"], "pearl_grid": s["pearl"]["grid"]}
        if s["pamr"]:
            more |= {"pamr_steps": s["pamr"]["steps"], "pamr_dilations": tuple(s["pamr"]["dilations"])}
        if s["sc_clip"]:
            more["sc_clip_blocks"] = tuple(s["sc_clip"][name] for name in ("j1", "j2", "first", "stop"))
        refine: Any = "pamr" if s["pamr"] else "propagation" if s["pearl"] else "none"
        sizes = {name: s[name] for name in ("short_side", "window", "stride")} | {"stride": s["stride"] or None}
        return TrainingFree(s["method"], logit_scale=s["logit_scale"], refine=refine, **sizes, **more)

    def views(self, tower: ImageTowerConfig) -> FreeViews:
        """The protocol, whichever program ran: they pad, and resize whole views, in different ways."""
        s = self.settings
        name = "slide" if s["window"] else "whole"
        return FreeViews(
            name,
            short_side=s["short_side"],
            window=s["window"],
            stride=s["stride"] or 1,
            patch=tower.patch_size,
            fill=tower.pixel_mean,
            padded=s["padded"],
            through_resized=s["through_resized"],
        )


@dataclasses.dataclass(frozen=True)
class Goldens:
    """A file of goldens."""

    stored: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: pathlib.Path) -> "Goldens":
        """Reads a file."""
        with np.load(path) as file:
            return cls(dict(file))

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, synonyms after ", "."""
        return tuple(map(str, self.stored["class_names"]))

    @property
    def cases(self) -> tuple[str, ...]:
        """The names of its cases."""
        return tuple(key.removesuffix("/settings") for key in self.stored if key.endswith("/settings"))

    def case(self, name: str) -> Case:
        """A case by its name."""
        numbers = {
            key.removeprefix(f"{name}/"): value for key, value in self.stored.items() if key.startswith(f"{name}/")
        }
        return Case(json.loads(str(numbers.pop("settings"))), numbers, json.loads(str(self.stored["samples"])))


class Compared(NamedTuple):
    """A stage of a case: what is found here, and what the published program found."""

    stage: str
    found: np.ndarray
    expected: np.ndarray

    @property
    def difference(self) -> float:
        """The largest difference, as a share of the largest value."""
        return float(np.abs(self.found - self.expected).max() / np.abs(self.expected).max())

    @property
    def equal(self) -> float:
        """The share of values that are the same."""
        return float((self.found == self.expected).mean())


def stages(goldens: Goldens, name: str, config: ModelConfig, params: Any) -> Iterator[Compared]:
    """The stages of a case, first to last: `resized` are bytes, `labels` classes, all others numbers."""
    case, image, text = goldens.case(name), goldens.stored["image"], goldens.stored["text"][:, None]
    numbers, steps, size = case.numbers, case.samples, image.shape[:2]
    protocol = case.views(config.image)
    seen = protocol.resized(image)
    said = [str(seen.shape[:2]), hashlib.sha256(seen.tobytes()).hexdigest()]
    published = [str(tuple(map(int, numbers["resized_shape"]))), str(numbers["resized_sha256"])]
    yield Compared("resized", np.array(said), np.array(published))

    model = TrainingFreeCLIP(config, case.method)
    encode = jax.jit(lambda p, views: model.apply({"params": p}, views, method="encode_image"))
    dense = encode(params, protocol.views(image, 0))["dense"]
    tokens = np.asarray(dense[0]).reshape(-1, config.embed_dim)
    yield Compared("dense", tokens[:: steps["dense"]], numbers["dense"])
    grids: Any = model.apply({"params": params}, dense, text, method="compare")
    yield Compared("grid", np.asarray(grids[0]), numbers["grid"])

    at_resized = protocol.mosaic_of_resized(size)
    mean = mosaic.mapped(grids, jnp.asarray(at_resized.rows), jnp.asarray(at_resized.columns))
    if not case.settings["window"] and not case.settings["through_resized"]:
        mean = grids[0]
    yield Compared("mean", np.asarray(mean[:, :: steps["mean"], :: steps["mean"]]), numbers["mean"])

    count = len(text)
    places = np.tile(np.arange(count, dtype=np.int32), (len(grids), 1))
    logits = ViewLogits(grids, np.arange(len(grids), dtype=np.int32), places)
    picture = refining.refined(case.method, config.image, logits, protocol.mosaic(size), lambda: seen, text)
    every = cosine_labels.every_map(picture)[:count, :: steps["logits"], :: steps["logits"]]
    yield Compared("refined", np.asarray(every), numbers["refined"])
    yield from _outcome(picture, case, goldens.stored["query_class"])


def _outcome(picture: Picture, case: Case, classes: np.ndarray) -> Iterator[Compared]:
    """Probabilities of the classes after the area threshold, and labels after all thresholds."""
    scale, count, every = case.method.logit_scale, int(classes.max()) + 1, case.samples["prob"]
    assert scale is not None
    probabilities = cosine_labels.probabilities(picture, scale, classes, count)
    label, confidence = cosine_labels.labels(picture, scale)
    if area := case.settings["area"]:
        small = cosine_labels.small_classes(classes[label], count, area, exempt=[0])
        label, confidence = cosine_labels.labels_among(picture, scale, ~small[classes])
        probabilities[small] = 0
    yield Compared("own confidence", confidence, probabilities.max(0))
    shown = probabilities / probabilities.sum(0) if case.settings["divided_by_sum"] else probabilities
    yield Compared("probabilities", shown[:, ::every, ::every], case.numbers["probabilities"])
    labels = np.where(confidence < case.settings["prob"], 0, classes[label])
    yield Compared("labels", labels, case.numbers["labels"])
