"""A turned bit in any file of a checkpoint is noticed, or changes nothing of what is loaded."""

import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import converted, manifest, packaged, store
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from tests.checkpoints.test_store import abstract, saved, state_at

FLIPS = 60

# When one array cannot be read, Orbax leaves the reads of the others to themselves; Python tells of them later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def flip(path: pathlib.Path, random: np.random.Generator) -> str:
    """Turns one bit of the file; says which."""
    data = bytearray(path.read_bytes())
    byte, bit = int(random.integers(len(data))), int(random.integers(8))
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}, byte {byte}, bit {bit}"


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture
def pretrained(plain, random_params):
    about = manifest.describe(plain, {"path": "f", "layout": "catseg"}, {"vocabulary": {"names": ["a"]}})
    return Pretrained(plain, random_params("catseg", plain), about)


def test_turned_bits_of_a_converted_directory(pretrained, tmp_path):
    whole, random, refused = converted.save_converted(tmp_path / "whole", pretrained), np.random.default_rng(0), 0
    files, expected = files_of(whole), load_pretrained(whole)
    for number in range(FLIPS):
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        where = flip(copy / files[number % len(files)].relative_to(whole), random)
        try:
            found = load_pretrained(copy)
        except CheckpointError:
            refused += 1
        else:
            assert found.manifest == expected.manifest, where
            assert same(found.params, pretrained.params), where
        shutil.rmtree(copy)
    assert refused > FLIPS // 4  # the rest lies in files that only Orbax keeps for itself


def test_turned_bits_of_the_arrays_and_of_the_manifest_are_refused(pretrained, tmp_path):
    whole, random = converted.save_converted(tmp_path / "whole", pretrained), np.random.default_rng(1)
    largest = max(files_of(whole / converted.PARAMS), key=lambda path: path.stat().st_size)
    for path in (largest, whole / converted.MANIFEST):
        content, refused = path.read_bytes(), 0
        for _ in range(12):
            where = flip(path, random)
            try:
                found = load_pretrained(whole)
            except CheckpointError as error:
                refused += bool(re.search(r"damaged|cannot be read|format version", str(error)))
            else:  # Orbax leaves earlier states of its index behind the arrays, up to an eighth of so small a file
                assert path == largest, where
                assert same(found.params, pretrained.params), where
            path.write_bytes(content)
        assert refused >= (6 if path == largest else 12)
    assert same(load_pretrained(whole).params, pretrained.params)


def test_turned_bits_of_a_training_checkpoint(tmp_path, capsys):
    saved(tmp_path / "whole", 1, 2, ema=True, scores={1: 10.0, 2: 20.0}).close()
    random, refused = np.random.default_rng(2), 0
    files = files_of(tmp_path / "whole/checkpoints/2")
    for number in range(FLIPS):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "whole", copy)
        where = flip(copy / files[number % len(files)].relative_to(tmp_path / "whole"), random)
        try:
            checkpoints = store.CheckpointStore(copy, keep=3)
            state, meta = checkpoints.restore(abstract(state_at(0, ema=True)))
            checkpoints.close()
        except CheckpointError:  # not even the directory can be opened
            refused += 1
        else:
            step = int(state["step"])
            refused += step == 1
            assert meta == {"next_batch": step}, where
            assert same(state, state_at(step, ema=True)), where
            assert (step == 1) == ("WARNING: the checkpoint of step 2 is unreadable" in capsys.readouterr().out), where
        shutil.rmtree(copy)
    assert refused > FLIPS // 6  # the rest lies in files that only Orbax keeps for itself


def test_turned_bits_of_a_training_checkpoint_whose_weights_are_taken(tmp_path):
    saved(tmp_path / "whole", 2).close()
    expected, random, refused = store.load_params(tmp_path / "whole"), np.random.default_rng(3), 0
    files = files_of(tmp_path / "whole/checkpoints/2")
    for number in range(FLIPS):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "whole", copy)
        where = flip(copy / files[number % len(files)].relative_to(tmp_path / "whole"), random)
        try:
            params, meta = store.load_params(copy)
        except CheckpointError:
            refused += 1
        else:
            assert (meta, same(params, expected[0])) == (expected[1], True), where
        shutil.rmtree(copy)
    assert refused > FLIPS // 4


def test_turned_bits_of_the_packaged_model(tmp_path):
    path, random, small = tmp_path / "tiny.safetensors", np.random.default_rng(4), packaged.load_tiny()
    packaged.save(path, small, packaged.Vocabulary(small.trained_names, small.templates), 0.5)
    content, expected = path.read_bytes(), packaged.load(path)
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(FLIPS):
        data, byte = bytearray(content), int(random.integers(header if number % 2 else len(content)))
        data[byte] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            found = packaged.load(path)
        except CheckpointError:
            continue
        assert found.manifest == expected.manifest, f"byte {byte}"  # as in the spaces between the JSON and the arrays
        assert same(found.params, expected.params), f"byte {byte}"


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(tmp_path, capsys):
    checkpoints = saved(tmp_path, 1)
    broken = state_at(2)
    broken["trainable"]["aggregator"]["head"]["bias"] = jnp.asarray([1.0, jnp.nan, 2.0])
    checkpoints.save(2, broken, {"next_batch": 2})
    checkpoints.finish()
    with pytest.raises(CheckpointError, match=r"values that are not finite .* in trainable/aggregator/head/bias"):
        store.load_params(tmp_path)
    assert int(checkpoints.restore(abstract(state_at(0)))[0]["step"]) == 1
    assert "not finite" in capsys.readouterr().out
    checkpoints.close()


def test_what_is_not_finite_is_neither_converted_nor_packaged(pretrained, tmp_path):
    pretrained.params["clip"]["logit_scale"] = np.float32(np.inf)
    with pytest.raises(CheckpointError, match=r"what is to be written to .* not finite .* in clip/logit_scale"):
        converted.save_converted(tmp_path / "converted", pretrained)
    with pytest.raises(CheckpointError, match=r"not finite .* in clip/logit_scale"):
        packaged.save(tmp_path / "a.safetensors", pretrained, packaged.Vocabulary(("a",), ("{}",)))
    assert list(tmp_path.iterdir()) == []


def without_hashes(path: pathlib.Path) -> None:
    """The JSON file as an earlier version wrote it."""
    content = json.loads(path.read_text())
    assert content.pop("hashes")
    assert content.pop("seal")
    path.write_text(json.dumps(content))


def test_converted_directories_of_earlier_versions_are_read_with_a_line(pretrained, tmp_path, capsys):
    whole = converted.save_converted(tmp_path / "whole", pretrained)
    without_hashes(whole / converted.MANIFEST)
    found = load_pretrained(whole)
    assert same(found.params, pretrained.params)
    assert capsys.readouterr().err == (
        f"{whole / 'params'} has no hashes (an earlier version wrote it): damage to its numbers would not be noticed\n"
    )


def test_training_checkpoints_of_earlier_versions_are_read_with_a_line(tmp_path, capsys):
    saved(tmp_path, 1).close()
    without_hashes(next((tmp_path / "checkpoints/1/meta").iterdir()))
    assert store.load_params(tmp_path)[1] == {"next_batch": 1}
    assert "has no hashes" in capsys.readouterr().err
    checkpoints = store.CheckpointStore(tmp_path, keep=3)
    state, _ = checkpoints.restore(abstract(state_at(0)))
    assert same(state, state_at(1))
    assert capsys.readouterr().err.count("the checkpoint of step 1 has no hashes") == 1
    checkpoints.close()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew_the_next_time(tmp_path):
    saved(tmp_path, 1, 2).close()
    for step in "12":
        for path in files_of(tmp_path / "checkpoints" / step / "state"):
            path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        checkpoints = store.CheckpointStore(tmp_path, keep=3)
        with pytest.raises(CheckpointError, match=r"none of .*1\.unreadable, 2\.unreadable.*to start again at step 0"):
            checkpoints.restore(abstract(state_at(0)))
        checkpoints.close()
    for path in (tmp_path / "checkpoints").iterdir():
        shutil.rmtree(path)
    checkpoints = store.CheckpointStore(tmp_path, keep=3)
    assert checkpoints.restore(abstract(state_at(0))) is None
    checkpoints.close()


def test_all_parameters_have_a_hash(pretrained, tmp_path):
    content = json.loads((converted.save_converted(tmp_path / "a", pretrained) / converted.MANIFEST).read_text())
    assert set(content["hashes"]) == {name for name, _ in parameters.flatten(pretrained.params)}
