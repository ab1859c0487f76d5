"""Checkpoints: what is kept, what survives damage and a full disk, and weights read back without optimiser state."""

import re
import shutil
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ahs_seg_jax.checkpoints import step_folders, store
from ahs_seg_jax.checkpoints.store import CheckpointStore
from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import make_mesh, replicated
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.storage import answering


def state_at(step: int, ema: bool = False):
    trainable = {"aggregator": {"head": {"bias": jnp.full((3,), float(step))}}}
    return {
        "trainable": trainable,
        "frozen": {"clip": {"logit_scale": jnp.asarray(4.6)}},
        "opt_state": (jnp.arange(5.0), (), {"count": jnp.asarray(step)}),
        "ema": jax.tree.map(lambda value: value + 100.0, trainable) if ema else None,
        "step": jnp.asarray(step),
    }


def abstract(state):
    sharding = replicated(make_mesh())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def saved(workdir, *steps, ema=False, keep=3, scores=()):
    checkpoints = CheckpointStore(workdir, keep)
    for step in steps:
        checkpoints.save(step, state_at(step, ema), {"next_batch": step}, dict(scores).get(step))
    checkpoints.finish()
    return checkpoints


def truncate(workdir, step):
    for path in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_restores_arrays_structure_sharding_and_meta(tmp_path):
    saved(tmp_path, 3).close()
    checkpoints = CheckpointStore(tmp_path, keep=3)
    state, meta = checkpoints.restore(abstract(state_at(3)))
    assert meta == {"next_batch": 3}
    assert checkpoints.newest_meta() == {"next_batch": 3}
    assert jax.tree.structure(state) == jax.tree.structure(state_at(3))
    jax.tree.map(np.testing.assert_array_equal, state, state_at(3))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    checkpoints.close()


def test_arrays_may_be_donated_while_they_are_saved(tmp_path):
    checkpoints = CheckpointStore(tmp_path, keep=1)
    state = state_at(1)
    checkpoints.save(1, state, {})
    state = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(state)
    restored, _ = checkpoints.restore(abstract(state))
    assert restored["trainable"]["aggregator"]["head"]["bias"].tolist() == [1.0] * 3
    checkpoints.close()


def test_keeps_the_newest_and_the_best_also_after_a_restart(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2, scores={1: 10.0, 2: 50.0, 3: 20.0}).close()
    checkpoints = saved(tmp_path, 5, 6, 7, keep=2, scores={5: 30.0})
    assert checkpoints.steps() == [2, 6, 7]
    checkpoints.close()


def test_empty_directory_restores_nothing(tmp_path):
    checkpoints = CheckpointStore(tmp_path, keep=1)
    assert checkpoints.restore(abstract(state_at(0))) is None
    assert checkpoints.newest_meta() is None
    checkpoints.close()


def test_saving_a_step_twice_is_no_error(tmp_path):
    checkpoints = saved(tmp_path, 1)
    assert checkpoints.save(1, state_at(1), {})
    checkpoints.close()


def test_unreadable_newest_falls_back_and_training_can_save_that_step_again(tmp_path, capsys):
    saved(tmp_path, 1, 2).close()
    truncate(tmp_path, 2)
    checkpoints = CheckpointStore(tmp_path, keep=3)
    state, meta = checkpoints.restore(abstract(state_at(0)))
    assert int(state["step"]) == 1
    assert meta == {"next_batch": 1}
    assert "WARNING: the checkpoint of step 2 is unreadable" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "2.unreadable").is_dir()
    assert checkpoints.save(2, state_at(2), {})
    checkpoints.finish()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_nothing_readable_is_an_error(tmp_path):
    saved(tmp_path, 1).close()
    truncate(tmp_path, 1)
    checkpoints = CheckpointStore(tmp_path, keep=3)
    with pytest.raises(
        CheckpointError, match=r"none of the checkpoints in .* can be read; .* set aside as 1\.unreadable"
    ):
        checkpoints.restore(abstract(state_at(0)))
    checkpoints.close()


def test_unreadable_metadata_falls_back(tmp_path, capsys):
    saved(tmp_path, 1, 2).close()
    for path in (tmp_path / "checkpoints" / "2" / "meta").rglob("*"):
        path.write_text("{")
    checkpoints = CheckpointStore(tmp_path, keep=3)
    assert checkpoints.newest_meta() == {"next_batch": 1}
    assert "WARNING: the metadata of step 2" in capsys.readouterr().out
    checkpoints.close()


FULL = "RESOURCE_EXHAUSTED: Error writing ...: No space left on device [os_error_code='28']"


def fail_with_full_disk(*_args, **_kwargs):
    """What TensorStore raises on a full disk, here in place of a method of Orbax's manager."""
    raise ValueError(FULL)


def test_full_disk_warns_keeps_the_last_good_one_and_tries_again(tmp_path, capsys):
    checkpoints = saved(tmp_path, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail_with_full_disk)
        assert not checkpoints.save(2, state_at(2), {})
    printed = capsys.readouterr().out
    assert "WARNING: the checkpoint of step 2 could not be saved" in printed
    assert "the disk is full" in printed
    assert "the checkpoint of step 1 stays" in printed
    assert checkpoints.save(3, state_at(3), {})
    checkpoints.finish()
    assert checkpoints.steps() == [1, 3]
    checkpoints.close()


def fail_once(patch):
    """The next wait for a save under way ends as on a full disk; later ones are Orbax's own."""
    wait = ocp.CheckpointManager.wait_until_finished

    def failing(self):
        patch.setattr(ocp.CheckpointManager, "wait_until_finished", wait)
        wait(self)
        fail_with_full_disk()

    patch.setattr(ocp.CheckpointManager, "wait_until_finished", failing)


def test_full_disk_noticed_by_the_next_save_names_the_failed_step(tmp_path, capsys, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(2, state_at(2), {})
    fail_once(monkeypatch)
    checkpoints.save(3, state_at(3), {})
    assert "WARNING: the checkpoint of step 2 could not be saved" in capsys.readouterr().out
    checkpoints.finish()
    assert checkpoints.steps()[-1] == 3
    checkpoints.close()


def test_full_disk_noticed_at_the_end_is_an_error(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(2, state_at(2), {})
    fail_once(monkeypatch)
    with pytest.raises(CheckpointError, match=r"could not be saved .* the disk is full .*free some space"):
        checkpoints.finish()
    checkpoints.close()


def test_place_that_does_not_answer_costs_a_save_and_not_the_time(tmp_path, capsys, monkeypatch):
    free = threading.Event()
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(2, state_at(2), {})  # complete or not, nobody can ask
    monkeypatch.setattr(checkpoints._steps, "_answering", answering.Answering(free.wait))
    assert not checkpoints.save(3, state_at(3), {}, patience=0.01)
    assert re.search(
        r"WARNING: the checkpoint of step 3 could not be saved in .*: TimeoutError: no answer within 0.01 s; "
        "the checkpoint of step 1 stays; training goes on and the next save will try again",
        capsys.readouterr().out,
    )
    with pytest.raises(CheckpointError, match=r"the last checkpoint could not be saved .* no answer within"):
        checkpoints.finish()
    free.set()
    assert checkpoints.save(4, state_at(4), {})
    checkpoints.finish()
    assert checkpoints.steps() == [1, 2, 4]
    checkpoints.close()


def test_last_save_that_failed_late_is_not_tried_again(tmp_path, monkeypatch):
    checkpoints, tried = saved(tmp_path, 1), []
    now = [0.0]
    monkeypatch.setattr(store, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def slow(self, step, **_):
        tried.append(step)
        now[0] += store.AGAIN_WITHIN
        fail_with_full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", slow)
        with pytest.raises(CheckpointError, match="the checkpoint of step 1 stays"):
            checkpoints.save_last(2, state_at(2), {})
    assert tried == [2]
    checkpoints.save_last(2, state_at(2), {})
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_background_failure_of_the_last_save_is_tried_again(tmp_path, capsys, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    original, answers = checkpoints._steps.ended, ["", reason(ValueError(FULL))]  # before the save; at its end
    monkeypatch.setattr(checkpoints._steps, "ended", lambda: answers.pop(0) if answers else original())
    checkpoints.save_last(2, state_at(2), {})
    assert "the last checkpoint, of step 2, is tried once more: the disk is full" in capsys.readouterr().out
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_asking_leaves_nothing_behind(tmp_path):
    checkpoints = saved(tmp_path, 1)
    assert checkpoints._steps._answering.within(60)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    checkpoints.close()


@pytest.mark.parametrize("where", ["workdir", "checkpoints", "step"])
@pytest.mark.parametrize(("ema", "expected"), [(False, 4.0), (True, 104.0)])
def test_weights_without_optimiser_state(tmp_path, where, ema, expected):
    saved(tmp_path, 2, 4, ema=ema).close()
    path = {"workdir": tmp_path, "checkpoints": tmp_path / "checkpoints", "step": tmp_path / "checkpoints" / "4"}[where]
    params, meta = store.load_params(path)
    assert meta == {"next_batch": 4}
    assert set(params) == {"aggregator", "clip"}
    assert isinstance(params["clip"]["logit_scale"], np.ndarray)
    np.testing.assert_array_equal(params["aggregator"]["head"]["bias"], np.full(3, expected, np.float32))


def test_an_older_step_can_be_named(tmp_path):
    saved(tmp_path, 2, 4).close()
    assert store.load_params(tmp_path / "checkpoints" / "2")[1] == {"next_batch": 2}


def test_no_checkpoint_is_named(tmp_path):
    assert not step_folders.is_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*<step>, or a step's directory"):
        store.load_params(tmp_path)


def test_damaged_weights_name_the_other_steps(tmp_path):
    saved(tmp_path, 2, 4).close()
    assert step_folders.is_checkpoint(tmp_path)
    truncate(tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"4 cannot be read: .*name another step's directory: \[2\]"):
        store.load_params(tmp_path)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(CheckpointError, match=r"cannot open .*choose another workdir"):
        CheckpointStore(tmp_path, keep=1)


def test_deleted_newest_step_falls_back(tmp_path):
    saved(tmp_path, 1, 2).close()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    checkpoints = CheckpointStore(tmp_path, keep=3)
    assert int(checkpoints.restore(abstract(state_at(0)))[0]["step"]) == 1
    checkpoints.close()


def test_vanished_directory_warns_and_the_next_save_makes_it_again(tmp_path, capsys):
    checkpoints = saved(tmp_path, 1)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("a file in the way")
    for number in (2, 3):
        assert not checkpoints.save(number, state_at(number), {})
        printed = capsys.readouterr().out
        assert f"WARNING: the checkpoint of step {number} could not be saved" in printed
    assert "training goes on and the next save will try again" in printed
    with pytest.raises(CheckpointError, match="could not be saved"):
        checkpoints.finish()
    (tmp_path / "checkpoints").unlink()
    assert checkpoints.save(4, state_at(4), {})
    checkpoints.finish()
    assert checkpoints.steps() == [4]
    checkpoints.close()


def test_saved_on_one_mesh_restored_on_another(tmp_path):
    meshes = [
        make_mesh(jax.devices()[:count], MeshConfig(data=-1, fsdp=fsdp)) for count, fsdp in ((4, 4), (1, 1), (2, 2))
    ]
    params = {"aggregator": {"head": {"kernel": np.arange(3 * 3 * 8, dtype=np.float32).reshape(3, 3, 8, 1)}}}
    checkpoints = CheckpointStore(tmp_path, keep=1)
    checkpoints.save(5, partition.put_sharded(params, meshes[0]), {})
    checkpoints.finish()
    for mesh in meshes:
        restored, _ = checkpoints.restore(partition.with_shardings(params, mesh))
        kernel = restored["aggregator"]["head"]["kernel"]
        np.testing.assert_array_equal(kernel, params["aggregator"]["head"]["kernel"])
        assert len(kernel.sharding.device_set) == mesh.devices.size
    checkpoints.close()
