"""What segments: the trained aggregator, or a training-free method on a checkpoint's CLIP; and what cannot be had."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.inference.free_views import FreeViews
from ahs_seg_jax.inference.heads import AGGREGATOR
from ahs_seg_jax.inference.protocols import PROTOCOLS, Protocol
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.training_free import METHODS, TrainingFree
from ahs_seg_jax.models.training_free.settings import OF_OTHER_TOWERS


def settings_of(method: str | TrainingFree, config: ModelConfig) -> TrainingFree:
    """The settings of a method by name. Raises ValueError for another name, or if the towers cannot serve it."""
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join((AGGREGATOR, *METHODS))}")
    settings = TrainingFree(method) if isinstance(method, str) else method
    if config.image.tower != "clip" and settings.method not in OF_OTHER_TOWERS:
        raise ValueError(
            f"the training-free method {settings.method} is defined for CLIP's image tower, and this one is "
            f"{config.image.tower!r}, of which there is: {', '.join(OF_OTHER_TOWERS)}"
        )
    settings.taps(config.image.layers)  # raises where there are no constants for so many blocks
    patch = config.image.patch_size
    if settings.window and settings.window < patch:
        raise ValueError(
            f"the window is {settings.window} pixels, less than a patch of this tower ({patch}); give at least "
            f"{patch}, or 0 for the whole image as one view"
        )
    return settings


def default_method(config: ModelConfig) -> TrainingFree:
    """What segments by a checkpoint without an aggregator, unless told otherwise."""
    return TrainingFree() if config.image.tower == "clip" else TrainingFree(OF_OTHER_TOWERS[0])


def only_clip(config: ModelConfig) -> ModelConfig:
    """The configuration of the CLIP inside a model."""
    return config.replace(mh_fpn=False, dc_hsp=False, aggregator=dataclasses.replace(config.aggregator, prompts=1))


def free_protocol(protocol: str | Protocol, known: Mapping[str, Protocol], method: str) -> Protocol:
    """The protocol of a training-free method by name, or the value itself. Raises ValueError for any other."""
    if isinstance(protocol, FreeViews):
        return protocol
    if isinstance(protocol, str) and protocol in known:
        return known[protocol]
    name, names = protocol if isinstance(protocol, str) else protocol.name, ", ".join(known)
    if name in PROTOCOLS:
        raise ValueError(
            f"the protocol {name!r} squashes the picture and averages sigmoids, which the training-free method "
            f"{method} cannot use; choose one of {names}"
        )
    raise ValueError(f"unknown protocol {name!r} of the training-free method {method}; choose one of {names}")


def no_aggregator(path: Any) -> CheckpointError:
    """What to say where an aggregator is asked for, and a checkpoint has none."""
    return CheckpointError(
        f"{path} holds CLIP's weights only; the method {AGGREGATOR!r} needs a trained aggregator as well: "
        "use a CAT-Seg or AHS-Seg checkpoint, or train one that starts from these weights (config.init); "
        f"or use a training-free method: {', '.join(METHODS)}"
    )
