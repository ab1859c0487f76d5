"""A model so small that every file of it is quick to write, with sizes that no two axes share where they can differ."""

import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import entries
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import AggregatorConfig
from tests.support.small import changed, small_model

SMALL = small_model(
    image__width=28,
    image__heads=7,
    image__patch_size=5,
    image__crop=30,
    image__pretrained_grid=7,
    text__layers=2,
    text__width=20,
    text__heads=5,
    text__vocab_size=97,
    text__context=13,
    block_size=4,
    aggregator__hidden=12,
    aggregator__layers=2,
    aggregator__heads=3,
    aggregator__mlp_ratio=3,
    aggregator__prompts=2,
    aggregator__appearance_guidance=5,
    aggregator__text_guidance=7,
    aggregator__decoder=(32, 16),
    aggregator__decoder_guidance=(3, 6),
    aggregator__guidance_up=(11, 13),
    aggregator__pad_len=19,
)
PLAIN = SMALL.replace(adaptation="none", mh_fpn=False, dc_hsp=False)
# A file shows these sizes by itself: heads have 64 channels, and what no shape tells is as published.
VISIBLE = changed(
    PLAIN,
    image__width=128,
    image__heads=2,
    image__crop=120,
    text__width=64,
    text__heads=1,
    aggregator=AggregatorConfig(),
    block_size=128,
    dc_hsp_rank=64,
    init="torch",
)


def _random_params(layout, config, seed=0):
    random = np.random.default_rng(seed)
    shapes = target_shapes(entries(layout, config))
    return parameters.unflatten({path: random.standard_normal(shape, np.float32) for path, shape in shapes.items()})


def _assert_same(one, other):
    one, other = dict(parameters.flatten(one)), dict(parameters.flatten(other))
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other[path]), err_msg=path, strict=True)


@pytest.fixture
def small():
    """Every component; the numbers of heads are not visible in a file."""
    return SMALL


@pytest.fixture
def plain():
    """`small` without components."""
    return PLAIN


@pytest.fixture
def visible():
    """A plain model whose every size a file shows."""
    return VISIBLE


@pytest.fixture
def random_params():
    """(layout, config, seed) -> standard normal values for everything that a file of this layout holds."""
    return _random_params


@pytest.fixture
def assert_same():
    """(tree, tree): equal names and bit-equal values."""
    return _assert_same
