"""Layouts of models with other towers than CLIP's: a row each, which is all that the rest of the program knows of them.

A new one is a file like `pe` or `siglip` and a row here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats import eva, pe, siglip
from ahs_seg_jax.checkpoints.formats.entry import Entry
from ahs_seg_jax.checkpoints.formats.stated import Stated
from ahs_seg_jax.checkpoints.formats.trunk import Timm
from ahs_seg_jax.models.architecture import ModelConfig

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Other:
    """One layout. A file that is a prefix and these names, with an aggregator behind them, is AHS-Seg's layout."""

    towers: tuple[str, str]  # of images and of texts
    recognised: Callable[[Shapes], bool]  # by the names of its tensors
    entries: Callable[[ModelConfig, str], Iterable[Entry]]  # its table; the prefix of every name
    # (shapes, the config.json beside the file, where, the model that is to take the weights) -> its sizes
    model_config: Callable[[Shapes, Mapping[str, Any] | None, str, ModelConfig | None], ModelConfig]
    stated: Stated  # what all such files have in common
    ignored: tuple[str, ...] = ()  # last parts of the names of buffers
    zeros: tuple[str, ...] = ()  # tensors that the model does not have, and that must be zero
    config_json: bool = False  # whether the config.json beside it is transformers'
    timm: Timm | None = None  # how open_clip's configuration states the image tower


OTHERS: dict[str, Other] = {
    siglip.NAME: Other(
        ("siglip", "siglip"),
        siglip.recognised,
        siglip.entries,
        siglip.model_config,
        siglip.STATED,
        ignored=("position_ids",),
        config_json=True,
    ),
    pe.OWN: Other(("pe", "clip"), pe.recognised, pe.entries, pe.model_config, pe.STATED, ignored=("attn_mask",)),
    pe.OPEN_CLIP: Other(
        ("pe", "clip"),
        pe.recognised_of_open_clip,
        pe.entries_of_open_clip,
        pe.model_config_of_open_clip,
        pe.STATED,
        ignored=("attn_mask",),
        zeros=(pe.ZEROS,),
        timm=pe.TIMM,
    ),
    eva.NAME: Other(
        ("eva", "clip"),
        eva.recognised,
        eva.entries,
        eva.model_config,
        eva.STATED,
        ignored=("attn_mask",),
        timm=eva.TIMM,
    ),
}


def of_timm(image: Mapping[str, Any]) -> bool:
    """Whether open_clip's configuration of an image tower states one that is read here."""
    stated = str(image.get("timm_model_name")), str(image.get("timm_pool"))
    return any(other.timm is not None and other.timm.states(*stated) for other in OTHERS.values())


def recognised(shapes: Shapes) -> str | None:
    """The layout of a file by its names; None if it is none of these."""
    return next((name for name, other in OTHERS.items() if other.recognised(shapes)), None)
