"""The towers by name: `model.image.tower` and `model.text.tower`. A new tower is added to these two tables."""

import re
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.models.towers import clip, eva, metaclip2, pe, siglip
from ahs_seg_jax.models.towers.config import ImageTowerConfig, TextTowerConfig
from ahs_seg_jax.models.towers.interface import ImageTower, Parameter, TextTower, Tower

IMAGE_TOWERS: dict[str, Tower[ImageTowerConfig, ImageTower]] = {
    "clip": clip.IMAGE,
    "siglip": siglip.IMAGE,
    "pe": pe.IMAGE,
    "eva": eva.IMAGE,
}
TEXT_TOWERS: dict[str, Tower[TextTowerConfig, TextTower]] = {
    "clip": clip.TEXT,
    "siglip": siglip.TEXT,
    "metaclip2": metaclip2.TEXT,
}
TOWERS: dict[str, Mapping[str, Tower[Any, Any]]] = {"image": IMAGE_TOWERS, "text": TEXT_TOWERS}


def towers(image: ImageTowerConfig, text: TextTowerConfig) -> dict[str, Tower[Any, Any]]:
    """Both towers of a model, by the names of their parts of the parameter tree."""
    return {"image": IMAGE_TOWERS[image.tower], "text": TEXT_TOWERS[text.tower]}


def parameter(name: str) -> Parameter | None:
    """What the towers' tables say of a parameter by its whole name, such as `clip/image/blocks/query/kernel`.

    None if it belongs to no tower, or if no tower has it. A name that several towers have means the same in all.
    """
    match = re.fullmatch(r"clip/(image|text)/(.+)", name)
    if not match:
        return None
    side, rest = match.groups()
    found = (tower.parameter(rest) for tower in TOWERS[side].values())
    return next((row for row in found if row is not None), None)
