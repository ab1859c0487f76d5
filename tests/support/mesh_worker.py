"""One training step of the small model, all components on, on a mesh of forced devices; see test_meshes.py.

python -m tests.support.mesh_worker OUTPUT.npz DATA,FSDP,CLASSES...
"""

import dataclasses
import sys
from unittest import mock

import jax
import numpy as np

from ahs_seg_jax.config import LossConfig, MeshConfig
from ahs_seg_jax.models import sharding
from ahs_seg_jax.models.ops import chunks
from ahs_seg_jax.training.losses import ClassPairs
from tests.support.small import small_model
from tests.support.training import batch, experiment, run_steps

PAIRS = ClassPairs(np.array([[0, 1]], np.int32), np.array([[2, 3]], np.int32))


def one_step(sizes: tuple[int, int, int], chunk: int) -> dict[str, np.ndarray]:
    """Every metric, parameter, average and first moment after a step on a mesh, by name. Batch 8, five classes."""
    config = experiment(
        small_model(adaptation="ha_hem", class_chunk=chunk), batch_size=8, learning_rate=1e-3, ema_decay=0.5
    )
    config = dataclasses.replace(config, mesh=MeshConfig(*sizes), losses=LossConfig(class_chunk=chunk))
    devices = jax.devices()[: int(np.prod(sizes))]
    state, history, programs = run_steps(config, steps=1, devices=devices, data=batch(8), pairs=PAIRS)
    assert programs == 1
    parts = {"params": state.trainable, "ema": state.ema, "moment": state.opt_state[1].mu}
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(parts)
    }
    return named | history[0]


def main() -> None:
    """Writes `<mesh>:<name>` for every mesh. A `c` after its sizes means classes in chunks of two, a `t` as on TPUs."""
    found = {}
    chunks.TPU_CHUNK = 2  # several chunks although there are few classes
    for mesh in sys.argv[2:]:
        sizes = tuple(int(size) for size in mesh.rstrip("ct").split(","))
        with mock.patch.object(sharding, "platform", return_value="tpu" if mesh.endswith("t") else "cpu"):
            arrays = one_step((sizes[0], sizes[1], sizes[2]), chunk=2 if mesh.endswith("c") else 0)
        print(mesh, flush=True)
        found |= {f"{mesh}:{name}": value for name, value in arrays.items()}
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
