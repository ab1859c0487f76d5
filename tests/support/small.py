"""The real model as small as it goes, and random parameters for it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import AggregatorConfig, ImageTowerConfig, ModelConfig, TextTowerConfig

CROP = 24


def changed(config: ModelConfig, **changes: Any) -> ModelConfig:
    """A copy with some fields changed; `image__width` is the field `width` of the group `image`."""
    for path, value in changes.items():
        group, _, name = path.rpartition("__")
        value = dataclasses.replace(getattr(config, group), **{name: value}) if group else value
        config = config.replace(**{group or name: value})
    return config


def small_model(**changes: Any) -> ModelConfig:
    """Every part of the model, as small as it goes, with some fields changed as by `changed`."""
    model = ModelConfig(
        image=ImageTowerConfig(layers=3, width=16, heads=2, patch_size=4, crop=CROP, pretrained_grid=6),
        text=TextTowerConfig(layers=1, width=16, heads=2, context=32),
        embed_dim=16,
        block_size=8,
        guidance_taps=(0, 1),
        mh_fpn_taps=(0, 1, 2),
        dc_hsp_rank=3,
        init="scratch",
        aggregator=AggregatorConfig(
            hidden=8,
            layers=1,
            heads=2,
            window=6,
            appearance_guidance=4,
            text_guidance=4,
            decoder=(16, 16),
            decoder_guidance=(4, 4),
            guidance_up=(8, 8),
            pad_len=8,
        ),
    )
    return changed(model, **changes)


def inference_model(**changes: Any) -> ModelConfig:
    """The model for tests of inference: 32 pixels on a grid of 4 tokens, 16 classes kept, neither MH-FPN nor DC-HSP."""
    model = small_model(
        image=ImageTowerConfig(layers=2, width=32, heads=2, patch_size=8, crop=32, pretrained_grid=4),
        text__width=32,
        mh_fpn=False,
        dc_hsp=False,
        aggregator__hidden=16,
        aggregator__window=4,
        aggregator__pad_len=16,
    )
    return changed(model, **changes)


def random_params(config: ModelConfig, seed: int = 0) -> dict:
    """Every parameter random, so that nothing is zero or equal by chance.

    Scales of norms lie around one: so the norms keep what they are given, and words make a difference to the result.
    """
    crop, prompts = config.image.crop, config.aggregator.prompts
    images, tokens = jnp.zeros((1, crop, crop, 3)), jnp.zeros((2, prompts, 16), jnp.int32)
    shapes = jax.eval_shape(AHSSeg(config).init, jax.random.key(0), images, tokens)["params"]
    rng = np.random.default_rng(seed)

    def random(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        centre = float(path[-1].key == "scale")
        return (centre + rng.normal(0, 0.3, leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(random, shapes)


@functools.cache
def plain_model() -> tuple[AHSSeg, dict]:
    """The model for tests of inference without rotations, and random parameters for it."""
    config = inference_model(adaptation="none")
    return AHSSeg(config), random_params(config)
