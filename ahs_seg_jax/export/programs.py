"""The programs that an export holds."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.inference import pass_programs
from ahs_seg_jax.models import arrangement, parameters
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP

MOST_PROMPTS = 1024  # of one call of encode_text: the text tower takes another way with more
TEXT = "baked/text"  # embeddings of the baked vocabulary, among the weights


def _compare_all(model: TrainingFreeCLIP) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """From weights, windows `[b, s, s, 3]` and text `[t, 1, e]` to cosines `[b, t, g, g]`."""

    def run(params: Any, images: jax.Array, text: jax.Array) -> jax.Array:
        both = lambda m: m.compare(m.encode_image(images)["dense"], text)
        return model.apply({"params": params}, method=both)  # type: ignore[return-value]

    return run


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of the weights and of named inputs, whose dimensions are numbers or names."""

    run: Callable[..., jax.Array]
    inputs: dict[str, tuple[tuple[int | str, ...], Any]]  # name -> dimensions, dtype
    output: str
    constraints: tuple[str, ...] = ()  # on the named dimensions


def prompt_channels(model: AHSSeg | TrainingFreeCLIP) -> int:
    """How many embeddings of each class the model takes."""
    return 1 if isinstance(model, TrainingFreeCLIP) else model.config.aggregator.prompts


def programs(model: AHSSeg | TrainingFreeCLIP, baked: bool) -> dict[str, Program]:
    """What is written, by file name. A training-free CLIP's images are windows of its pretrained square."""
    tower, context, prompts = model.config.image, model.config.text.context, prompt_channels(model)
    if isinstance(model, TrainingFreeCLIP):
        segment_all, side = _compare_all(model), tower.pretrained_grid * tower.patch_size
    else:
        model = model.clone(arrangement=arrangement.DEFAULT)  # for any platform, and any number of images and words
        segment_all, side = functools.partial(pass_programs.segment_all, model), tower.crop

    def segment(weights: dict[str, jax.Array], images: jax.Array, text: jax.Array | None = None) -> jax.Array:
        params = parameters.unflatten({name: leaf for name, leaf in weights.items() if name != TEXT})
        return segment_all(params, images, weights[TEXT] if text is None else text)

    def encode_text(weights: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        return pass_programs.encode_text(model, parameters.unflatten(weights), tokens)

    images = ("b", side, side, 3), jnp.float32
    if baked:
        return {"segment": Program(segment, {"images": images}, "logits")}
    text, tokens = (("t", prompts, model.config.embed_dim), jnp.float32), (("t", prompts, context), jnp.int32)
    few = (f"{prompts}*t <= {MOST_PROMPTS}",)
    return {
        "segment": Program(segment, {"images": images, "text": text}, "logits"),
        "encode_text": Program(encode_text, {"tokens": tokens}, "text", few),
    }
