"""Speed: what is timed, how times are summed up, what the command says and writes. No statement about any time."""

import json

import pytest

from ahs_seg_jax.cli import benchmark
from ahs_seg_jax.cli.timing import Timing, measure, timed
from ahs_seg_jax.inference import compiled, in_passes
from ahs_seg_jax.segmenter import Segmenter
from tests.support.small import inference_model, random_params


def test_median_and_spread():
    timing = Timing("stage", 9.0, (1.0, 2.0, 3.0, 4.0, 6.0), 0)
    assert timing.median == 3.0
    assert timing.spread == pytest.approx((4.0 - 2.0) / 2 / 3.0)
    assert timing.described()["median_seconds"] == 3.0


def test_first_call_is_apart_and_compilations_are_counted():
    called = []

    def call(index):
        called.append(index)
        compiled.traces["test"] += index == 2

    timing = timed("stage", call, 3)
    assert called == [0, 1, 2, 3]
    assert (len(timing.seconds), timing.compilations) == (3, 1)


def test_stages_do_what_they_say(monkeypatch):
    """New images are encoded once a call, known ones never, and nothing compiles in timed calls."""
    segmenter = Segmenter(inference_model(), random_params(inference_model()))
    encoded = []
    encode = in_passes.encode_views
    monkeypatch.setattr(in_passes, "encode_views", lambda *given: encoded.append(len(given[2])) or encode(*given))
    seen = {}
    for timing in measure(segmenter, 3, (41, 37), repetitions=2):
        seen[timing.stage], encoded[:] = list(encoded), []
        assert timing.compilations == 0, timing.stage
        assert len(timing.seconds) == 2
    assert seen["3 words"] == []
    assert seen["image features"] == [1, 1, 1]
    assert seen["whole: new image"] == [1, 1, 1]
    assert seen["whole: known image"] == [1]  # before it is timed
    assert seen["cat_seg: new image"] == [5, 5, 5]  # four windows and the whole
    assert seen["cat_seg: known image"] == [5]


def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        Segmenter, "from_pretrained", lambda model, **_: Segmenter(inference_model(), random_params(inference_model()))
    )
    benchmark.run("tiny", 3, (41, 37), 1, None, tmp_path / "speed.json")
    said = capsys.readouterr().out
    assert "tiny, 3 names, 37 x 41 pixels" in said
    assert "cat_seg: known image" in said
    assert "peak memory" in said
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["settings"]["classes"] == 3
    assert [stage["stage"] for stage in report["stages"]][:2] == ["3 words", "image features"]
    assert report["peak_memory_bytes"]["process"] > 10**8
    assert "jax" in report["versions"]


def test_an_unwritable_file_is_found_before_anything_runs(tmp_path):
    with pytest.raises(OSError, match="cannot be written; name a file in a folder that exists with --json"):
        benchmark.run("tiny", 3, (41, 37), 1, None, tmp_path / "no" / "speed.json")
