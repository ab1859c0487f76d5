"""Devices: the mesh, where arrays lie, and the refusal of batches that cannot be split."""

import jax
import numpy as np
import pytest

from ahs_seg_jax.config import Experiment, MeshConfig
from ahs_seg_jax.devices import processes
from ahs_seg_jax.devices.mesh import (
    batch_shards,
    check_batch,
    local_rows,
    make_mesh,
    put_batch,
    put_replicated,
)


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
