"""Hashes of stored arrays: what they notice, and that they fit arrays on any devices."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import CheckpointError


def random_array(words, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, words, np.uint64)


@pytest.mark.parametrize("words", [1, 511, 512, 512 * 256, 512 * 300 + 17])
@pytest.mark.parametrize("bit", [0, 31, 63])
def test_every_turned_bit_is_noticed(words, bit):
    array = random_array(words)
    before = hashes.digest(array)
    for place in {0, words // 2, words - 1}:
        other = array.copy()
        other[place] ^= np.uint64(1) << np.uint64(bit)
        assert hashes.digest(other) != before
    assert hashes.digest(array.copy()) == before


def test_two_and_three_changes_that_keep_a_sum_are_noticed():
    array = random_array(512 * 40) >> np.uint64(2)
    before, random = hashes.digest(array), np.random.default_rng(1)
    for count in (2, 3):
        for _ in range(100):
            places = random.choice(512 * 8, count, replace=False)  # often in one row or one column
            changes = random.integers(1, 2**60, count - 1)
            other = array.copy()
            other[places[:-1]] += changes.astype(np.uint64)
            other[places[-1:]] -= changes.sum().astype(np.uint64)
            assert other.sum() == array.sum()
            assert hashes.digest(other) != before
    top = array.copy()
    top[[3, 4]] ^= np.uint64(1) << np.uint64(63)  # both signs of one row
    assert hashes.digest(top) != before


@pytest.mark.parametrize("swap", [(0, 1), (0, 512), (5, 512 * 256 + 5)])
def test_exchanged_words_are_noticed(swap):
    array = random_array(512 * 300)
    other = array.copy()
    other[list(swap)] = other[list(reversed(swap))]
    assert hashes.digest(other) != hashes.digest(array)


def test_type_and_shape_belong_to_an_array():
    array = np.arange(12, dtype=np.float32)
    others = [array.reshape(3, 4), array.reshape(4, 3), array.view(np.int32), array[:11]]
    assert len({hashes.digest(other) for other in [array, *others]}) == 5
    assert hashes.digest(array.reshape(3, 4).T) == hashes.digest(np.ascontiguousarray(array.reshape(3, 4).T))


@pytest.mark.parametrize(
    "array",
    [np.float32(3), np.zeros((0, 3), np.float32), np.ones(5, bool), np.arange(7, dtype=ml_dtypes.bfloat16)],
    ids=["scalar", "empty", "bool", "bfloat16"],
)
def test_arrays_of_any_kind_have_a_hash(array):
    stored = hashes.digests([("a", np.asarray(array))])
    hashes.check({"a": np.array(array)}, stored, "here")


def test_damage_names_the_array():
    leaves = {"a/b": np.arange(5.0), "c": np.arange(3)}
    stored = json.loads(json.dumps(hashes.digests(leaves.items())))
    hashes.check({"c": leaves["c"]}, stored, "here", ("c",))  # some of them
    with pytest.raises(CheckpointError, match=r"damaged: here lacks the arrays a/b(\n|$)"):
        hashes.check({"c": leaves["c"]}, stored, "here")
    with pytest.raises(CheckpointError, match=r"damaged: here holds other numbers in the array a/b(\n|$)"):
        hashes.check(leaves | {"a/b": np.arange(5.0) + 1}, stored, "here")
    with pytest.raises(CheckpointError, match=r"damaged: here has no hash of the array d(\n|$)"):
        hashes.check(leaves | {"d": np.zeros(2)}, stored, "here")


@pytest.mark.parametrize(
    "places",
    [
        *(["x"], ["0:x,0:5"], [], ["0:4"], ["0:4,0:5,0:1"], [""], ["-4:4,0:5"], ["0:9999999999999999999,0:5"]),
        *(["0:4,0:3"], ["0:4,0:3", "0:4,2:5"], ["0:4,0:3", "0:4,4:5"], ["0:2,0:3", "0:2,3:5", "2:4,0:3"]),
        *(["0:4,0:6"], ["0:2,0:5", "2:4,0:3", "2:4,3:5"]),
    ],
    ids=lambda places: " ".join(places) or "none",
)
def test_hashes_of_parts_must_make_up_the_array(places):
    array = np.arange(20.0).reshape(4, 5)
    is_part = lambda place: hashes._PLACE.fullmatch(place) and place.count(":") == 2
    hashed = lambda place: hashes.digest(array[hashes._slices(place)] if is_part(place) else array)
    with pytest.raises(CheckpointError, match=r"damaged: here has hashes of .* in the array a, which do not make"):
        hashes.check({"a": array}, {"a": {place: hashed(place) for place in places}}, "here")
    grid = ["0:1,0:3", "0:1,3:5", "1:4,0:3", "1:4,3:5"]
    hashes.check({"a": array}, {"a": {place: hashed(place) for place in grid}}, "here")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_refused(value, dtype):
    leaves = {name: np.ones((3, 2), dtype) for name in "abcde"}
    for name in "bcde":
        leaves[name][1, 1] = value
    with pytest.raises(CheckpointError, match=r"here holds values that are not finite .* in b, c, d and 1 more$"):
        hashes.check(leaves, hashes.digests(leaves.items()), "here")


def test_large_values_are_finite():
    hashes.check_finite([("a", np.full(4, 3e38, np.float32)), ("b", jnp.full(4, -3e38)), ("n", np.arange(3))], "here")


def test_what_has_no_hashes_is_said_in_one_line(capsys):
    hashes.check({"a": np.ones(3)}, None, "here")
    assert capsys.readouterr().err == (
        "here has no hashes (an earlier version wrote it): damage to its numbers would not be noticed\n"
    )
    with pytest.raises(CheckpointError, match="not finite"):
        hashes.check({"a": np.full(3, np.nan)}, None, "here")


def test_seals_notice_every_change():
    content = {"hashes": {"a": "0"}, "step": 3, "rates": (0.1, 1e-300)}
    stored = json.loads(json.dumps(hashes.sealed(content)))
    meta, found = hashes.unsealed(stored, "here")
    assert (meta, found) == ({"step": 3, "rates": [0.1, 1e-300]}, {"a": "0"})
    others = [stored | {"step": 4}, {key: value for key, value in stored.items() if key != "seal"}, stored | {"x": 0}]
    for other in others:
        with pytest.raises(CheckpointError, match="damaged: here is not what was written there"):
            hashes.unsealed(other, "here")
    assert hashes.unsealed({"step": 3}, "here") == ({"step": 3}, None)
    with pytest.raises(CheckpointError, match="damaged: here holds a list"):
        hashes.unsealed([], "here")


def test_states_are_checked_on_other_devices_than_they_were_saved_from():
    meshes = [
        make_mesh(jax.devices()[:count], MeshConfig(data=-1, fsdp=fsdp))
        for count, fsdp in ((4, 4), (1, 1), (2, 2), (4, 1))
    ]
    params = {"aggregator": {"head": {"kernel": np.arange(3 * 3 * 8, dtype=np.float32).reshape(3, 3, 8, 1)}}}
    name = "aggregator/head/kernel"
    for saved_on in meshes:
        stored = hashes.of_state(partition.put_sharded(params, saved_on))
        split = saved_on.shape["fsdp"] > 1
        assert isinstance(stored[name], dict if split else str)
        assert not split or len(stored[name]) == saved_on.shape["fsdp"]
        for loaded_on in meshes:
            hashes.check_state(partition.put_sharded(params, loaded_on), stored, "here")
            other = jax.tree.map(np.array, params)
            other["aggregator"]["head"]["kernel"][2, 2, 7] += 1
            with pytest.raises(CheckpointError, match=f"damaged: here holds other numbers in the array {name}"):
                hashes.check_state(partition.put_sharded(other, loaded_on), stored, "here")
