"""Which axis of a parameter is split over devices, by its name."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ahs_seg_jax.config import Experiment, MeshConfig, TrainConfig
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.models import architecture
from ahs_seg_jax.training import step


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("clip/image/blocks/query/kernel", (4, 6, 12), P(None, None, "fsdp")),
        ("clip/image/blocks/mlp_out/kernel", (8, 12, 6), P(None, "fsdp")),  # never the axis of layers
        ("clip/image/blocks/query/bias", (4, 12), P()),
        ("aggregator/head/kernel", (3, 3, 16, 1), P(None, None, "fsdp")),
        ("dc_hsp/text/base", (8, 8), P("fsdp")),  # the first of equals
        ("guidance_up_1/kernel", (2, 3, 7, 5), P()),  # nothing divides
        ("mh_fpn/fusion_weights", (4,), P()),
    ],
)
def test_fsdp_splits_the_largest_divisible_axis(name, shape, expected):
    assert partition.spec(name, shape, 4) == expected
    assert partition.spec(name, shape, 1) == P()


def test_every_parameter_of_both_sizes_has_a_rule_and_optimiser_state_follows():
    for model in (architecture.vitb16(), architecture.vitl14_336()):
        mesh = make_mesh(jax.devices()[:4], MeshConfig(fsdp=4))
        state = step.abstract_state(Experiment(model=model, train=TrainConfig(ema_decay=0.9)), mesh)
        kernel = state.trainable["aggregator"]["layers_0"]["class"]["mlp_in"]["kernel"].sharding.spec
        moment = state.opt_state[1].mu["aggregator"]["layers_0"]["class"]["mlp_in"]["kernel"].sharding.spec
        average = state.ema["aggregator"]["layers_0"]["class"]["mlp_in"]["kernel"].sharding.spec
        assert kernel == moment == average == P(None, "fsdp")
        assert state.step.sharding.spec == state.opt_state[1].count.sharding.spec == P()
        held = sum(size for _, size in partition.bytes_per_device(state, mesh))
        everything = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        assert 0.25 <= held / everything < 0.27


def test_parameters_without_a_rule_are_listed():
    tree = {"aggregator": {"bias": np.zeros(3)}, "new": {"b": np.zeros(3), "a": np.zeros(3)}}
    with pytest.raises(partition.UnmatchedParameters, match=r"no partition rule matches new/a, new/b; add a pattern"):
        partition.tree_shardings(tree, make_mesh())
