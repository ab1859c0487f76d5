"""What is asked of the published training-free programs, what is compared, and the tables."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.published import free_job, free_page, free_parity
from benchmarks.published.free_job import TOWERS, FreeCase, Tower

THIN = Tower(layers=2, width=24, heads=2, patch=8, grid=3, embed_dim=10)
CASE = FreeCase("small", "naclip", (37, 53), 3, (0, 0, 1, 2), 24, 12, 36, 40.0, probability=0.3)


@pytest.fixture(autouse=True)
def small_tower(monkeypatch):
    monkeypatch.setitem(TOWERS, "small", THIN)


def test_cases_are_the_same_in_both_processes(tmp_path):
    free_job.write_cases([CASE], tmp_path / "cases.json")
    assert free_job.read_cases(tmp_path / "cases.json") == [CASE]
    assert CASE.picture().shape == (37, 53, 3)
    np.testing.assert_array_equal(CASE.picture(), CASE.picture())
    np.testing.assert_allclose(np.linalg.norm(CASE.text(), axis=-1), 1, rtol=1e-6)
    assert CASE.resized() == (36, 52)
    assert dataclasses.replace(CASE, size=(1, 3000)).resized() == (8, 2048)


def test_weights_become_parameters():
    weights = free_job.visual_weights(THIN)
    assert weights["visual.transformer.resblocks.1.mlp.c_fc.weight"].shape == (96, 24)
    params = free_parity.our_parameters("small", weights)
    assert params["clip"]["image"]["blocks"]["mlp_in"]["kernel"].shape == (2, 24, 96)
    values = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert values == 1 + sum(value.size for value in weights.values())  # and the scale of CLIP's own logits


def test_pictures_of_every_method():
    cases = free_parity.make_cases("vitb16", list(free_job.PROGRAMS), 5)
    assert {case.method for case in cases} == set(free_job.PROGRAMS)
    assert {case.size for case in cases} == set(free_parity.SIZES)
    assert {case.window for case in cases} == {0, 224, 448}
    clearclip = next(case for case in cases if case.method == "clearclip")
    assert (clearclip.short_side, clearclip.window, clearclip.stride, clearclip.scale) == (448, 448, 224, 50.0)


@pytest.mark.parametrize(
    ("method", "size", "window", "short_side", "can"),
    [
        ("naclip", (37, 53), 24, 36, True),
        ("naclip", (90, 10), 0, 8, False),  # 9 x 1 patches, as many as the pretrained 3 x 3
        ("naclip", (10, 10), 0, 7, True),  # enlarged to a patch
        ("sc_clip", (37, 53), 24, 36, False),  # 3 x 3 patches, where it needs 31
        ("sc_clip", (37, 53), 0, 36, False),  # 4 x 6
        ("sc_clip", (37, 53), 48, 60, True),
    ],
)
def test_what_the_programs_cannot_run(method, size, window, short_side, can):
    case = dataclasses.replace(CASE, method=method, size=size, window=window, short_side=short_side)
    assert free_parity.can_run(case) == can


def test_both_sides_in_one_line(monkeypatch, tmp_path, capsys):
    """Ours beside itself: every part but the published programs."""

    def same(folder, program, scratch):
        weights = dict(np.load(scratch / "weights.npz"))
        params = free_parity.our_parameters("small", weights)
        (case,) = free_job.read_cases(scratch / "cases.json")
        assert np.load(scratch / "0.npy").shape == (36, 52, 3)
        found = free_parity.ours(case, params)
        assert found["logits"].shape == (4, 37, 53)
        return {f"0/{name}": value for name, value in found.items()}

    monkeypatch.setattr(free_parity, "theirs", same)
    (row,) = free_parity.run(tmp_path, [CASE])
    assert (row["largest_difference"], row["equal_labels"], row["passed"]) == (0, 1, True)
    assert "ok  small naclip" in capsys.readouterr().out
    record = {"name": "free_parity", "settings": {"tower": "small"}, "cases": [row, row | {"passed": False}]}
    text = free_page.block([record])
    assert "| small | naclip | NACLIP | 2 | 37 to 53 | 4 to 4 | 0.0e+00 | 0 % | 100.000 % | 1 of 2 |" in text
    assert "Stored numbers" not in text


def test_differences_by_hand():
    expected = {"logits": np.array([[[1.0, -2.0]]]), "labels": np.array([[0, 1]])}
    near = {"logits": np.array([[[1.0001, -2.0]]]), "labels": np.array([[0, 1]])}
    found = free_parity.compared(CASE, near, expected)
    assert found["largest_difference"] == pytest.approx(5e-5)
    assert found["passed"]
    far = free_parity.compared(CASE, near | {"logits": np.array([[[1.001, -2.0]]])}, expected)
    assert (far["share_over"], far["passed"]) == (0.5, False)
    assert not free_parity.compared(CASE, near | {"labels": np.array([[1, 1]])}, expected)["passed"]


def test_a_failing_program_is_reported(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=r"(?s)NACLIP: exit status 1.*holds no naclip.py; pass the folder that"):
        free_parity.theirs(tmp_path, "NACLIP", tmp_path)
