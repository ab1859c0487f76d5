"""A model so small that every file of it is quick to write, with sizes that no two axes share where they can differ."""

import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import entries
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import AggregatorConfig, ImageTowerConfig, ModelConfig, TextTowerConfig

SMALL = ModelConfig(
    image=ImageTowerConfig(layers=3, width=28, heads=7, patch_size=5, crop=30, pretrained_grid=7),
    text=TextTowerConfig(layers=2, width=20, heads=5, vocab_size=97, context=13),
    embed_dim=16,
    block_size=4,
    guidance_taps=(0, 1),
    mh_fpn_taps=(0, 1, 2),
    dc_hsp_rank=3,
    aggregator=AggregatorConfig(
        hidden=12,
        layers=2,
        heads=3,
        window=6,
        mlp_ratio=3,
        prompts=2,
        appearance_guidance=5,
        text_guidance=7,
        decoder=(32, 16),
        decoder_guidance=(3, 6),
        guidance_up=(11, 13),
        pad_len=19,
    ),
)
PLAIN = SMALL.replace(adaptation="none", mh_fpn=False, dc_hsp=False)
# The sizes that a file shows by itself: 64 channels a head, and as published whatever no shape tells.
VISIBLE = PLAIN.replace(
    image=ImageTowerConfig(layers=3, width=128, heads=2, patch_size=5, crop=120, pretrained_grid=7),
    text=TextTowerConfig(layers=2, width=64, heads=1, vocab_size=97, context=13),
    aggregator=AggregatorConfig(),
    block_size=128,
    dc_hsp_rank=64,
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


@pytest.fixture
def torch():
    """PyTorch, of the `convert` extra."""
    return pytest.importorskip("torch")
