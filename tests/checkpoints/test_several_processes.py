"""Hashes of a state that several processes hold: saved, restored on another mesh, damage seen by one alone."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

from ahs_seg_jax.checkpoints import hashes, store
from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.devices import distributed, partition
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import CheckpointError
from tests.support.xla_flags import xla_flags

NAME = "aggregator/head/kernel"
KERNEL = np.arange(3 * 3 * 8, dtype=np.float32).reshape(3, 3, 8, 1)
PARAMS = {"aggregator": {"head": {"kernel": KERNEL, "bias": np.ones(1, np.float32)}}}


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(pathlib.Path(__file__).parents[2])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    environment["XLA_FLAGS"] = xla_flags(2)
    commands = [[sys.executable, __file__, str(tmp_path), str(port), str(number)] for number in range(2)]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=600)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def work(folder: str, port: str, number: str) -> None:
    """One of the two processes."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
    meshes = [make_mesh(jax.devices(), MeshConfig(data=-1, fsdp=fsdp)) for fsdp in (4, 2, 1)]
    texts = ["", "é" * 50]
    assert distributed.exchange("texts", texts[int(number)]) == texts
    distributed.exchange("the next round", "")
    multihost_utils.sync_global_devices("both have forgotten the first")
    assert jax_distributed.global_state.client.key_value_dir_get("ahs_seg_jax/1/texts") == []
    for saved_on in meshes:
        state = partition.put_sharded(PARAMS, saved_on)
        stored = hashes.of_state(state)
        split = saved_on.shape["fsdp"]
        assert len(stored[NAME]) == split if split > 1 else stored[NAME] == hashes.digest(KERNEL)
        for loaded_on in meshes:
            hashes.check_state(partition.put_sharded(PARAMS, loaded_on), stored, "here")
    checkpoints = store.CheckpointStore(folder, keep=2)
    for step in (1, 2):
        checkpoints.save(step, partition.put_sharded(PARAMS, meshes[0]), {"step": step})
    checkpoints.finish()
    for mesh in meshes:
        restored, meta = checkpoints.restore(partition.with_shardings(PARAMS, mesh))
        assert meta == {"step": 2}
        for shard in restored["aggregator"]["head"]["kernel"].addressable_shards:
            np.testing.assert_array_equal(shard.data, KERNEL[shard.index])
    check, calls = hashes.check_state, []

    def damaged(*arguments):
        check(*arguments)
        calls.append(arguments)
        if number == "1" and len(calls) == 1:
            raise CheckpointError("damaged: as this process alone sees it")

    hashes.check_state = damaged
    assert checkpoints.restore(partition.with_shardings(PARAMS, meshes[0]))[1] == {"step": 1}
    assert (pathlib.Path(folder) / "checkpoints/2.unreadable").is_dir()
    checkpoints.close()


if __name__ == "__main__":
    work(*sys.argv[1:])
