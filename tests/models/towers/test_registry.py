"""The towers' tables: every parameter has a row, names mean the same in all towers, and the fields act."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import ahs_seg, architecture, parameters
from ahs_seg_jax.models.towers import registry
from ahs_seg_jax.models.towers.interface import SLOTS

SIDES = [(side, name) for side, towers in registry.TOWERS.items() for name in towers]


def module(side, name, **changes):
    config = architecture.tiny()
    sizes = dataclasses.replace(getattr(config, side), tower=name, **changes)
    return registry.TOWERS[side][name].make(sizes, config.embed_dim, jnp.float32, "none"), sizes


def inputs(side, sizes):
    if side == "image":
        return jax.random.normal(jax.random.key(1), (2, sizes.crop, sizes.crop, 3)), (0, sizes.layers - 1)
    return (jnp.asarray([[1, 5, 9, 0], [1, 7, 3, 9]]),)


@pytest.mark.parametrize(("side", "name"), SIDES)
def test_every_parameter_has_a_row_and_the_rotated_are_square_kernels_of_each_layer(side, name):
    tower, sizes = module(side, name)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), *inputs(side, sizes)))["params"]
    leaves = dict(parameters.flatten(shapes))
    row = registry.TOWERS[side][name]
    assert [path for path in leaves if row.parameter(path) is None] == []
    assert set(row.rotated) in ({*SLOTS}, set())
    for kernel in row.rotated.values():
        assert leaves[kernel].shape == (sizes.layers, sizes.width, sizes.width)


def test_a_name_means_the_same_in_all_towers():
    rows = [(side, row) for side, towers in registry.TOWERS.items() for t in towers.values() for row in t.parameters]
    for (side, first), (other, second) in itertools.combinations(rows, 2):
        if side == other and first.pattern == second.pattern:
            assert first == second


@pytest.mark.parametrize(
    ("name", "group", "split_from", "decays"),
    [
        ("clip/image/blocks/query/kernel", "attention", 1, True),
        ("clip/text/blocks/out/bias", "blocks", 1, True),
        ("clip/image/class_embedding", "clip", 0, False),
        ("clip/text/token_embedding", "clip", 0, False),
        ("clip/image/ln_pre/scale", "clip", None, True),
    ],
)
def test_rows_of_clip(name, group, split_from, decays):
    assert registry.parameter(name)[1:] == (group, split_from, decays)


@pytest.mark.parametrize("name", ["clip/logit_scale", "clip/image/blocks", "clip/audio/projection/kernel", "head/bias"])
def test_what_is_no_parameter_of_a_tower_has_no_row(name):
    assert registry.parameter(name) is None


@pytest.mark.parametrize(("side", "name"), SIDES)
def test_the_activation_is_a_field(side, name):
    tower, sizes = module(side, name)
    variables = jax.jit(lambda key: tower.init(key, *inputs(side, sizes)))(jax.random.key(0))

    def features(activation):
        other, _ = module(side, name, activation=activation)
        return jax.tree.leaves(jax.jit(lambda variables: other.apply(variables, *inputs(side, sizes)))(variables))[0]

    quick, exact = features("quick_gelu"), features("gelu")
    difference = np.abs(quick - exact).max()
    assert 1e-4 < difference < 0.5


def test_pixel_statistics_are_fields():
    sizes = dataclasses.replace(architecture.tiny().image, pixel_mean=(10.0, 20.0, 30.0), pixel_std=(1.0, 2.0, 4.0))
    image = jnp.broadcast_to(jnp.asarray([11.0, 24.0, 22.0]), (1, 5, 7, 3))
    found = ahs_seg.normalise_pixels(image, sizes)
    assert found.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(found, jnp.broadcast_to(jnp.asarray([1.0, 2.0, -2.0]), found.shape), rtol=1e-6)
