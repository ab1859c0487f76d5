"""Training directories whose files are damaged: what is continued is bit for bit a step that was saved."""

import logging
import pathlib
import shutil

import jax
import numpy as np

from ahs_seg_jax.checkpoints import store
from ahs_seg_jax.checkpoints.store import CheckpointStore
from ahs_seg_jax.errors import CheckpointError
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent

STEPS = (3, 5)
SIZE = 3000  # numbers of the largest array


def state_at(step):
    """A state whose every number tells its step."""
    rng = np.random.default_rng(step)
    values = lambda *shape: jax.numpy.asarray(rng.normal(size=shape).astype(np.float32))
    return {
        "trainable": {"aggregator": {"head": {"bias": values(7), "kernel": values(SIZE // 10, 10)}}},
        "frozen": {"clip": {"logit_scale": values()}},
        "opt_state": (values(13), (), {"count": jax.numpy.asarray(step)}),
        "ema": None,
        "step": jax.numpy.asarray(step),
    }


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


class Attack(Kind):
    mistakes = (CheckpointError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        logging.disable(logging.CRITICAL)  # what Orbax says of damage
        self._whole = folder / "whole"
        checkpoints = CheckpointStore(self._whole, keep=3)
        for step in STEPS:
            checkpoints.save(step, state_at(step), {"config": {}, "data": {}, "step": step})
        checkpoints.finish()
        checkpoints.close()
        self._states = [state_at(step) for step in STEPS]
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        self._abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), self._states[0]
        )
        self._files = sorted(path.relative_to(self._whole) for path in self._whole.rglob("*") if path.is_file())

    def run(self, rng):
        self._path = self.folder / "copy"
        shutil.copytree(self._whole, self._path)
        try:
            for _ in range(int(rng.integers(1, 4))):
                self._damage(self._path / mutations.pick(rng, self._files), rng)
            self._weights()
            self._state()
        finally:
            shutil.rmtree(self._path, ignore_errors=True)

    def _damage(self, path, rng):
        if not path.exists():
            return
        kind = rng.integers(10)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(b"")
        elif kind == 2:
            shutil.rmtree(path.parent)
        elif kind == 3:
            path.parent.rename(path.parent.with_name(mutations.pick(rng, ("\u00b2", "9", "x", "5.unreadable"))))
        else:
            path.write_bytes(mutations.turn_bits(path.read_bytes(), rng))

    def _weights(self):
        """The weights alone, as a segmenter takes them."""
        try:
            params, _ = store.load_params(self._path)
        except (CheckpointError, FileNotFoundError):
            return
        if not any(same(params, store.parameters.merge(of["trainable"], of["frozen"])) for of in self._states):
            raise Silent("other weights were loaded")

    def _state(self):
        checkpoints = CheckpointStore(self._path, keep=3)
        try:
            restored = checkpoints.restore(self._abstract)
        finally:
            checkpoints.close()
        if restored is not None and not any(same(restored[0], state) for state in self._states):
            raise Silent("training would go on from other numbers")

    def close(self):
        logging.disable(logging.NOTSET)

    def is_clear(self, said):
        return str(self._path) in said and len(said) > 40
