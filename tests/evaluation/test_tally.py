"""Interrupted evaluations: continued with the same result, and never with the counts of another one."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from ahs_seg_jax.evaluation import tally as tally_module
from ahs_seg_jax.evaluation.tally import Partial, Tally, digest
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support import ROOT
from tests.support.color_model import PARAMS, Interrupted, ListSource, Stopping, evaluate, one_device, random_source


def test_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = random_source(9)
    whole.colors[1] = None
    options = {"batch_size": 2, "pictures": 6, "mesh": one_device(), "num_threads": 1}
    expected = evaluate(whole, **options)
    partial = tmp_path / "results" / "x.partial"
    source = Stopping(6, whole.colors, whole.labels)
    with pytest.raises(Interrupted):
        evaluate(source, **options, partial=partial)
    assert [path.name for path in partial.parent.iterdir()] == ["x.partial.0.npz"]
    lines = []
    source.stop_at, source.read = None, []
    result = evaluate(source, **options, partial=partial, log=lines.append)
    # Batches of two; the third was under way when the fourth could not be read.
    assert lines[0] == "going on after 4 of 9 images of this process"
    assert min(source.read[:5]) == 4
    left_out = ("seconds", "date")
    kept = [{key: value for key, value in r.to_dict().items() if key not in left_out} for r in (result, expected)]
    assert kept[0] == kept[1]
    for ours, theirs in zip(result.pictures, expected.pictures, strict=True):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert list(partial.parent.iterdir()) == []


@pytest.mark.parametrize("change", ["weights", "protocol", "vocabulary", "data", "file"])
def test_counts_of_another_evaluation_are_not_used(tmp_path, change):
    partial, options = tmp_path / "x.partial", {"mesh": one_device(), "num_threads": 1}
    colors, labels = random_source(4).colors, random_source(4).labels
    with pytest.raises(Interrupted):
        evaluate(Stopping(3, colors, labels), **options, partial=partial)
    source, params = ListSource(colors, labels), PARAMS
    if change == "weights":
        params = {"scale": np.float32(3)}
    elif change == "protocol":
        options["protocol"] = "cat_seg"
    elif change == "vocabulary":
        source.vocabulary = Vocabulary(("red", "green", "blue", "sea"))
    elif change == "data":
        source.fingerprint = lambda: {"images": 4, "files": "others"}
    else:
        (tmp_path / "x.partial.0.npz").write_bytes(b"half a file")
    lines = []
    result = evaluate(source, params, **options, partial=partial, log=lines.append)
    assert "starting again" in lines[0]
    assert result.report["data"]["images"] == 4
    assert int(result.scores.pixels.sum()) == sum(int((label >= 0).sum()) for label in labels)


def test_counts_are_saved_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(tally_module, "SAVE_SECONDS", 0.0)
    saved = []
    monkeypatch.setattr(Partial, "save", lambda _, tally: saved.append(tally.done))
    options = {"batch_size": 2, "mesh": one_device()}
    evaluate(random_source(5), **options, partial=tmp_path / "x.partial")
    assert saved == [2, 4, 5]


@pytest.mark.slow
def test_killed_evaluation_goes_on_where_it_was_saved(tmp_path):
    """SIGKILL leaves no time to save; the file of the last batch is there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=False, timeout=900)
    assert killed.returncode == 9
    source, lines = random_source(9), []
    options = {"batch_size": 2, "mesh": one_device()}
    result = evaluate(source, **options, partial=tmp_path / "x.partial", log=lines.append)
    assert lines[0] in [f"going on after {done} of 9 images of this process" for done in (2, 4)]
    expected = evaluate(source, **options)
    assert result.to_dict()["classes"] == expected.to_dict()["classes"]


def test_tallies_add_up_and_keep_the_extremes():
    first = Tally(np.array([[1, 2], [3, 4]]), 2, 3, 5.0, [{"name": "a", "cause": "x"}], [(90.0, 0)], [(90.0, 0)])
    second = Tally(np.array([[10, 0], [0, 7]]), 2, 2, 1.0, [], [(95.0, 5), (90.0, 4)], [(20.0, 4), (90.0, 1)])
    total = first.added(second)
    np.testing.assert_array_equal(total.confusion, [[11, 2], [3, 11]])
    assert (total.done, total.images, total.seconds, len(total.failed)) == (5, 4, 5.0, 1)
    assert total.best == [(95.0, 5), (90.0, 0)]
    assert total.worst == [(20.0, 4), (90.0, 0)]
    again = Tally.from_json(total.to_json(), total.confusion)
    assert dataclasses.astuple(again)[1:] == dataclasses.astuple(total)[1:]
    np.testing.assert_array_equal(again.confusion, total.confusion)


def test_digest_sees_every_fact_but_not_their_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


class Killing(ListSource):
    """A source whose image 6 ends the process as soon as something is saved."""

    def __getitem__(self, index):
        if index == 6:
            deadline = time.monotonic() + 60
            while not any(pathlib.Path(sys.argv[1]).glob("*.npz")) and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(9)
        return super().__getitem__(index)


if __name__ == "__main__":
    tally_module.SAVE_SECONDS = 0.0
    whole, target = random_source(9), epath.Path(sys.argv[1]) / "x.partial"
    killing = Killing(whole.colors, whole.labels)
    evaluate(killing, batch_size=2, mesh=one_device(), num_threads=1, partial=target)
