"""Devices: the mesh, where arrays lie, and the refusal of batches that cannot be split."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ahs_seg_jax.config import Experiment, MeshConfig, TrainConfig
from ahs_seg_jax.devices import partition, processes
from ahs_seg_jax.devices.mesh import (
    batch_shards,
    check_batch,
    local_rows,
    make_mesh,
    put_batch,
    put_replicated,
)
from ahs_seg_jax.models import architecture, sharding
from ahs_seg_jax.models.ops import chunks
from ahs_seg_jax.training import step


@pytest.fixture
def mesh():
    if jax.device_count() < 2:
        pytest.skip("needs several devices")
    return make_mesh()


def test_mesh_has_all_devices_on_the_data_axis_unless_told_otherwise(mesh):
    assert mesh.shape == {"data": jax.device_count(), "fsdp": 1, "classes": 1}
    shaped = make_mesh(jax.devices()[:4], MeshConfig(data=-1, fsdp=2, classes=2))
    assert shaped.shape == {"data": 1, "fsdp": 2, "classes": 2}
    assert batch_shards(shaped) == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=-1, fsdp=3), r"mesh.data = -1, mesh.fsdp = 3, .*a multiple of 3 devices, but there are 4"),
        (MeshConfig(data=2, classes=4), r"needs 8 devices, but there are 4"),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused(mesh, config, words):
    with pytest.raises(ValueError, match=words):
        make_mesh(jax.devices()[:4], config)


def test_mesh_that_makes_no_sense_is_a_problem_of_the_configuration():
    two_free = Experiment(mesh=MeshConfig(data=-1, fsdp=-1)).problems()
    assert any("only one axis can be -1" in problem for problem in two_free)
    zero = Experiment(mesh=MeshConfig(classes=0)).problems()
    assert "mesh.classes is 0; it must be positive, or -1" in zero


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


def test_parameters_without_a_rule_are_listed(mesh):
    tree = {"aggregator": {"bias": np.zeros(3)}, "new": {"b": np.zeros(3), "a": np.zeros(3)}}
    with pytest.raises(partition.UnmatchedParameters, match=r"no partition rule matches new/a, new/b; add a pattern"):
        partition.tree_shardings(tree, mesh)


def test_batch_is_split_and_tokens_are_copied(mesh):
    devices = mesh.devices.size
    image = np.arange(devices * 3 * 5, dtype=np.uint8).reshape(devices, 3, 5)
    batch = put_batch({"image": image, "index": np.arange(devices, dtype=np.int32)}, mesh)
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(1, 3, 5)}
    np.testing.assert_array_equal(batch["image"], image)
    tokens = put_replicated(np.ones((7, 1, 8), np.int32), mesh)
    assert {shard.data.shape for shard in tokens.addressable_shards} == {(7, 1, 8)}


def test_batch_that_does_not_split_is_refused(mesh):
    devices = mesh.devices.size
    check_batch(2 * devices, 2, mesh)
    with pytest.raises(
        ValueError, match=rf"train.batch_size is {devices + 1}.* {devices} devices; set it to {devices} "
    ):
        check_batch(devices + 1, 1, mesh)
    with pytest.raises(ValueError, match=rf"{devices} devices x 3 micro-batches; set it to {3 * devices}$"):
        check_batch(devices, 3, mesh)


def test_one_process_loads_the_whole_batch_and_prints(capsys):
    assert local_rows(8, make_mesh()) == range(8)
    processes.log("hello")
    assert capsys.readouterr().out == "hello\n"


def test_a_pass_over_classes_keeps_no_copy_of_what_it_takes(mesh):
    """Its backward pass reads the part again from the whole, also where that is constrained to the mesh."""
    x = jax.ShapeDtypeStruct((mesh.devices.size, 6, 3), "float32")

    def forward(x):
        with sharding.on(mesh):
            return jax.vjp(lambda x: chunks.over_classes(jax.numpy.sin, x, chunk=2, remat="all"), x)[0]

    (loop,) = (e for e in jax.make_jaxpr(forward)(x).eqns if e.primitive.name == "scan")
    assert [v.aval.shape for v in loop.outvars] == [(3, mesh.devices.size, 2, 3)]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_mesh_says_what_its_devices_are(platform):
    device = types.SimpleNamespace(platform=platform)
    assert sharding.is_tpu(types.SimpleNamespace(devices=np.array([[device]]))) == (platform == "tpu")
    assert not sharding.is_tpu()  # JAX's own, here
