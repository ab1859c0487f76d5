"""The optimiser: which parameters learn, at which rate, with which weight decay.

Everything is decided by a parameter's name (`aggregator/head/kernel`) and the ordered patterns below; a name that no
pattern knows is an error, so a new module cannot slip in untrained. Parameters that do not learn are kept in a tree of
their own (`split`): they are not differentiated and have no optimiser state.

Recipe: CAT-Seg's and AHS-Seg's (AdamW, cosine to zero, full-model gradient clipping); parity:
golden/vitb_three_steps.npz.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ahs_seg_jax.config import TrainConfig
from ahs_seg_jax.config.training import FINETUNE
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import registry

# The first pattern that matches the whole name gives the group; a tower's parameters have theirs in models/towers/.
GROUPS = (
    (r"clip/adaptation/.*", "adaptation"),
    (r"clip/logit_scale", "clip"),
    (r"guidance_up_[12]/.*", "guidance"),
    (r"mh_fpn/.*", "mh_fpn"),
    (r"dc_hsp/.*", "dc_hsp"),
    (r"aggregator/.*", "aggregator"),
)
INSIDE_CLIP = FINETUNE["scratch"]
LABELS = tuple(dict.fromkeys((*INSIDE_CLIP, *(label for _, label in GROUPS))))


NORMS = r".*(norm|ln)_?[a-z0-9]*/(scale|bias)"  # LayerNorm and GroupNorm


def group(name: str) -> str:
    """The group of a parameter, by its tower or the first of GROUPS that matches. Raises ValueError if none does."""
    if row := registry.parameter(name):
        return row.group
    for pattern, label in GROUPS:
        if re.fullmatch(pattern, name):
            return label
    known = ", ".join(pattern for pattern, _ in GROUPS)
    raise ValueError(
        f"parameter {name!r} belongs to no group of the optimiser; the patterns are {known}, and those of models/towers"
    )


def is_trainable(name: str, finetune: str) -> bool:
    """Whether a parameter learns under a mode of FINETUNE."""
    label = group(name)
    return label not in INSIDE_CLIP or label in FINETUNE[finetune]


def decays(name: str) -> bool:
    """Whether weight decay acts on a parameter: on all but norms and embeddings (biases of linear layers decay)."""
    row = registry.parameter(name)
    return not re.fullmatch(NORMS, name) and (row is None or row.decays)


def split(params: Params, finetune: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two nested trees, (trainable, frozen), that `merge` puts together again."""
    flat = dict(parameters.flatten(params))
    trainable = {name: value for name, value in flat.items() if is_trainable(name, finetune)}
    frozen = {name: value for name, value in flat.items() if name not in trainable}
    return parameters.unflatten(trainable), parameters.unflatten(frozen)


def only(params: Params, label: str) -> dict[str, Any]:
    """The part of a tree that belongs to one group."""
    return parameters.unflatten({name: leaf for name, leaf in parameters.flatten(params) if group(name) == label})


def learning_rate(train: TrainConfig) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """The rate outside CLIP at a step (0-based): half a cosine from the peak to zero, times a linear warm-up."""

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        ramp = jnp.minimum(1.0, (step + 1) / (train.warmup_steps + 1))
        progress = jnp.clip(step / train.steps, 0.0, 1.0)
        return train.learning_rate * ramp * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return rate


def make_optimizer(train: TrainConfig) -> optax.GradientTransformation:
    """AdamW over the trainable tree: clip by the global norm, Adam, decoupled weight decay, the two learning rates."""
    clip = optax.clip_by_global_norm(train.clip_norm) if train.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(train.weight_decay, mask=lambda params: parameters.by_name(decays, params)),
        optax.masked(
            optax.scale(train.clip_multiplier),
            lambda params: parameters.by_name(lambda name: group(name) in INSIDE_CLIP, params),
        ),
        optax.scale_by_learning_rate(learning_rate(train)),
    )


def update_ema(ema: Params, params: Params, decay: float) -> Params:
    """The exponential moving average after one more step: `decay * ema + (1 - decay) * params`."""
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, ema, params)
