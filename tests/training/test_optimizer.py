"""The optimiser: groups by name, splitting, and AdamW steps worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ahs_seg_jax.config import TrainConfig
from ahs_seg_jax.models import parameters
from ahs_seg_jax.training import optimizer

NAMES = (
    "clip/logit_scale",
    "clip/image/class_embedding",
    "clip/image/position_embedding",
    "clip/image/patch_embedding/kernel",
    "clip/image/ln_pre/scale",
    "clip/image/projection/kernel",
    "clip/image/blocks/ln_1/scale",
    "clip/image/blocks/query/kernel",
    "clip/image/blocks/query/bias",
    "clip/image/blocks/key/kernel",
    "clip/image/blocks/key/bias",
    "clip/image/blocks/value/kernel",
    "clip/image/blocks/value/bias",
    "clip/image/blocks/out/kernel",
    "clip/image/blocks/out/bias",
    "clip/image/blocks/mlp_in/kernel",
    "clip/image/blocks/mlp_in/bias",
    "clip/text/token_embedding",
    "clip/text/blocks/query/kernel",
    "clip/text/blocks/query/bias",
    "clip/text/blocks/value/kernel",
    "clip/text/blocks/ln_2/bias",
    "clip/adaptation/core",
    "clip/adaptation/alpha_text",
    "guidance_up_1/kernel",
    "aggregator/correlation_embedding/kernel",
    "aggregator/layers_0/spatial/guidance_norm/scale",
    "aggregator/layers_0/class/ln_1/bias",
    "aggregator/layers_0/class/padding_token",
    "aggregator/decoder_1/norm_2/bias",
    "aggregator/head/bias",
    "mh_fpn/level_0/align_norm/scale",
    "mh_fpn/level_0/radius",
    "mh_fpn/out_norm/bias",
    "dc_hsp/complexity/norm_0/scale",
    "dc_hsp/image/scale",
)


def tree(names=NAMES, value=1.0):
    nested: dict = {}
    for name in names:
        *groups, leaf = name.split("/")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[leaf] = jnp.full((2,), value)
    return nested


def names_of(params) -> set[str]:
    return {"/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)}


@pytest.mark.parametrize(
    ("finetune", "inside"),
    [
        ("frozen", set()),
        ("orthogonal", {"clip/adaptation/core", "clip/adaptation/alpha_text"}),
        (
            "orthogonal_biases",
            {"clip/adaptation/core", "clip/adaptation/alpha_text"}
            | {f"clip/image/blocks/{slot}/bias" for slot in ("query", "key", "value", "out")},
        ),
        (
            "attention",
            {f"clip/{tower}/blocks/{slot}/kernel" for tower in ("image", "text") for slot in ("query", "value")},
        ),
        ("full", {name for name in NAMES if "/blocks/" in name}),
        ("scratch", {name for name in NAMES if name.startswith("clip/")}),
    ],
)
def test_what_learns_inside_clip(finetune, inside):
    outside = {name for name in NAMES if not name.startswith("clip/")}
    trainable, frozen = optimizer.split(tree(), finetune)
    assert names_of(trainable) == inside | outside
    assert names_of(frozen) == set(NAMES) - inside - outside


def test_merge_is_the_inverse_of_split():
    params = tree()
    merged = parameters.merge(*optimizer.split(params, "orthogonal"))
    assert jax.tree.structure(merged) == jax.tree.structure(params)


def test_unknown_parameter_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'new_module/kernel' belongs to no group .*aggregator/\.\*"):
        optimizer.split({"new_module": {"kernel": jnp.ones(2)}}, "scratch")


def test_weight_decay_spares_norms_and_embeddings_only():
    spared = {name for name in NAMES if not optimizer.decays(name)}
    assert spared == {
        "clip/image/class_embedding",
        "clip/image/position_embedding",
        "clip/text/token_embedding",
        "clip/image/ln_pre/scale",
        "clip/image/blocks/ln_1/scale",
        "clip/text/blocks/ln_2/bias",
        "aggregator/layers_0/spatial/guidance_norm/scale",
        "aggregator/layers_0/class/ln_1/bias",
        "aggregator/decoder_1/norm_2/bias",
        "mh_fpn/level_0/align_norm/scale",
        "mh_fpn/out_norm/bias",
        "dc_hsp/complexity/norm_0/scale",
    }


def test_frozen_parameters_hold_no_state():
    trainable, _ = optimizer.split(tree(), "orthogonal")
    state = optimizer.make_optimizer(TrainConfig()).init(trainable)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
    assert len(moments) == 2 * len(jax.tree.leaves(trainable))


def test_cosine_from_the_peak_to_zero():
    rate = optimizer.learning_rate(TrainConfig(steps=8, learning_rate=0.4))
    np.testing.assert_allclose([float(rate(step)) for step in (0, 4, 8)], [0.4, 0.2, 0.0], atol=1e-8)
    np.testing.assert_allclose(float(rate(2)), 0.2 * (1 + 2**-0.5), rtol=1e-6)


def test_warmup_rises_linearly_and_never_starts_at_zero():
    rate = optimizer.learning_rate(TrainConfig(steps=1000, warmup_steps=3, learning_rate=1.0))
    plain = optimizer.learning_rate(TrainConfig(steps=1000, learning_rate=1.0))
    shares = [float(rate(step) / plain(step)) for step in range(5)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)


def two_steps(train, params, gradients):
    adamw = optimizer.make_optimizer(train)
    state = adamw.init(params)
    for grads in gradients:
        updates, state = adamw.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(value, gradients, rates, weight_decay):
    """AdamW as its paper writes it, on one number."""
    first = second = 0.0
    for step, (grad, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad**2
        mean, deviation = first / (1 - 0.9**step), (second / (1 - 0.999**step)) ** 0.5
        value = value - rate * (mean / (deviation + 1e-8) + weight_decay * value)
    return value


def test_two_steps_by_hand():
    train = TrainConfig(steps=4, learning_rate=0.1, clip_multiplier=0.01, weight_decay=0.5, clip_norm=0.0)
    names = (
        *("aggregator/head/kernel", "aggregator/decoder_1/norm_1/scale", "clip/adaptation/core"),
        "clip/image/blocks/out/bias",
    )
    gradients = [tree(names, value) for value in (0.3, -0.7)]
    params = two_steps(train, tree(names, 2.0), gradients)
    rates = [0.1, 0.1 * 0.5 * (1 + 2**-0.5)]
    expected = {
        "aggregator/head/kernel": by_hand(2.0, [0.3, -0.7], rates, 0.5),
        "aggregator/decoder_1/norm_1/scale": by_hand(2.0, [0.3, -0.7], rates, 0.0),
        "clip/adaptation/core": by_hand(2.0, [0.3, -0.7], [rate * 0.01 for rate in rates], 0.5),
    }
    biases = params["clip"]["image"]["blocks"]["out"]["bias"]
    np.testing.assert_allclose(biases, expected["clip/adaptation/core"], rtol=1e-6)  # biases decay as well
    np.testing.assert_allclose(params["aggregator"]["head"]["kernel"], expected[names[0]], rtol=1e-6)
    np.testing.assert_allclose(params["aggregator"]["decoder_1"]["norm_1"]["scale"], expected[names[1]], rtol=1e-6)
    np.testing.assert_allclose(params["clip"]["adaptation"]["core"], expected[names[2]], rtol=1e-6)


def test_gradients_are_clipped_together_and_before_adam():
    names = ("aggregator/head/kernel", "clip/adaptation/core")
    train = TrainConfig(steps=4, learning_rate=0.1, clip_norm=1.0, weight_decay=0.0, clip_multiplier=1.0)
    # Norms: 4 numbers of 3 -> 6, clipped to 1; then 4 numbers of 0.1 -> 0.2, left alone.
    params = two_steps(train, tree(names, 2.0), [tree(names, 3.0), tree(names, 0.1)])
    expected = by_hand(2.0, [3.0 / 6.0, 0.1], [0.1, 0.1 * 0.5 * (1 + 2**-0.5)], 0.0)
    np.testing.assert_allclose(params["aggregator"]["head"]["kernel"], expected, rtol=1e-6)


def test_ema_by_hand():
    average = optimizer.update_ema({"a": jnp.asarray(2.0)}, {"a": jnp.asarray(6.0)}, 0.75)
    assert float(average["a"]) == 3.0
