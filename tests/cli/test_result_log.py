"""The log of a run's finished images: what survives a kill, parts of the images, and the summary made of lines."""

import json

import pytest

from ahs_seg_jax.cli.image_jobs import WHOLE, Shard
from ahs_seg_jax.cli.result_log import ResultLog, merge_shards, write_summary

ABOUT = {"settings": {"classes": ["a"]}, "versions": {}}


def entry(name, size=1, **more):
    return {"name": name, "file": [size, 2], **more}


def names(log):
    return [found["name"] for found in log.entries()]


def test_parts_of_the_images():
    assert Shard.parse("2/3") == Shard(2, 3)
    assert (Shard(2, 3).mark, WHOLE.mark) == (".00002-of-00003", "")
    for text in ("0/3", "4/3", "1", "1/0", "-1/2", "a/b", "1/2/3", ""):
        with pytest.raises(ValueError, match=r"--shard is .*; give k/n, the part and the number of parts, such as 1/8"):
            Shard.parse(text)
    # sha256("street/a") begins with 040fb80849de1443, which is 2 modulo 3 (counted from 0).
    assert [Shard(k, 3).holds("street/a") for k in (1, 2, 3)] == [False, False, True]
    assert Shard(1, 1).holds("street/a")
    for name in map(str, range(200)):
        assert sum(Shard(k, 7).holds(name) for k in range(1, 8)) == 1
    sizes = [sum(Shard(k, 7).holds(str(name)) for name in range(2000)) for k in range(1, 8)]
    assert min(sizes) > 220  # 286 each, if they were equal


def test_entries_are_found_again(tmp_path):
    log = ResultLog(tmp_path, WHOLE)
    for name, size in (("b", 3), ("a/\u6c34", 5), ("b", 7)):
        log.add(entry(name, size, text="\u00e9\n"))
    assert log.fingerprint("b") == [7, 2]
    again = ResultLog(tmp_path, WHOLE)
    assert list(again.entries()) == [entry("a/\u6c34", 5, text="\u00e9\n"), entry("b", 7, text="\u00e9\n")]
    again.forget("b")
    assert again.fingerprint("b") is None
    assert names(again) == ["a/\u6c34"]
    assert len(ResultLog(tmp_path, WHOLE, fresh=True)) == 0
    assert not list(tmp_path.iterdir())


def test_a_line_that_was_cut_off_costs_its_image_alone(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"name": "a", "file": [1, 2]}\n[3]\n{"name": 4}\n{"name": "b", "fi')
    log = ResultLog(tmp_path, WHOLE)
    assert names(log) == ["a"]
    log.add(entry("c"))
    log.add(entry("b"))
    assert names(log) == names(ResultLog(tmp_path, WHOLE)) == ["a", "b", "c"]


def test_parts_read_what_others_have_done_and_keep_their_own(tmp_path):
    whole = ResultLog(tmp_path, WHOLE)
    every = [str(number) for number in range(20)]
    for name in every[:10]:
        whole.add(entry(name))
    parts = [ResultLog(tmp_path, Shard(k, 3)) for k in (1, 2, 3)]
    assert sorted(name for part in parts for name in names(part)) == sorted(every[:10])
    for part, number in zip(parts, (1, 2, 3), strict=True):
        for name in every:
            if Shard(number, 3).holds(name):
                part.add(entry(name, size=9))
    assert names(ResultLog(tmp_path, WHOLE)) == sorted(every)
    assert {found["file"][0] for found in ResultLog(tmp_path, WHOLE, parts=3).entries()} == {9}
    assert len(ResultLog(tmp_path, Shard(1, 3), fresh=True)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "results.00002-of-00003.jsonl",
        "results.00003-of-00003.jsonl",
        "results.jsonl",
    ]


def test_the_last_part_writes_the_summary(tmp_path):
    def finish(number, done=True, **about):
        found = ABOUT | about | {"finished": done, "failed": [{"image": str(number), "reason": "damaged"}]}
        (tmp_path / f"summary.{number:05d}-of-00003.json").write_text(json.dumps(found))

    for number in (1, 2, 3):
        log = ResultLog(tmp_path, Shard(number, 3))
        for name in "abcdefg":
            if Shard(number, 3).holds(name):
                log.add(entry(name))
    finish(1)
    assert merge_shards(tmp_path, 3, ABOUT) == [2, 3]
    finish(2, done=False)
    finish(3)
    assert merge_shards(tmp_path, 3, ABOUT) == [2]
    finish(2, settings={"classes": ["b"]})
    assert merge_shards(tmp_path, 3, ABOUT) == [2]
    assert not (tmp_path / "summary.json").exists()
    finish(2)
    assert merge_shards(tmp_path, 3, ABOUT) == []
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [found["name"] for found in summary["images"]] == list("abcdefg")
    assert [found["image"] for found in summary["failed"]] == ["1", "2", "3"]


def test_a_summary_is_json(tmp_path):
    for entries in ([], [entry("a")], [entry("a"), entry("\u6c34")]):
        failed = [{"image": "x", "reason": "\u00e9"}]
        write_summary(tmp_path / "summary.json", ABOUT, iter(entries), failed, done=False)
        assert json.loads((tmp_path / "summary.json").read_text("utf-8")) == ABOUT | {
            "finished": False,
            "images": entries,
            "failed": failed,
        }
