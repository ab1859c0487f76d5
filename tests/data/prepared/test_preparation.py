"""Preparing: complete, interrupted, continued, repeated; what TFDS and this program read of it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ahs_seg_jax import progress
from ahs_seg_jax.data.benchmarks import benchmark
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared import layout, preparation, shards
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from tests.support import trees
from tests.support.trees import rows

ADE = BENCHMARKS["ade20k_150"]


@pytest.fixture
def root(tmp_path):
    trees.ade20k_150(tmp_path, {f"ADE_val_{k}": rows([0, k, 150]) for k in range(1, 8)})
    return tmp_path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_EXAMPLES", 3)


def prepared(root, known=ADE, **settings):
    lines = []
    return trees.prepared(known, root, log=lines.append, **settings), lines


def test_every_example_in_order(root, monkeypatch):
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    facts, lines = prepared(root)
    source = PreparedSource(root, "ade20k_150", "val")
    assert [source.name(k) for k in range(len(source))] == [f"ADE_val_{k}" for k in range(1, 8)]
    for k, example in enumerate(source[i] for i in range(7)):
        np.testing.assert_array_equal(example["label"], rows([-1, k, 149], np.int32))
        assert (example["image"].shape, example["image"].dtype) == ((5, 3, 3), np.uint8)
    assert facts["splits"]["val"]["shard_lengths"] == [2, 2, 3]
    assert facts["splits"]["val"]["classes"][149] == 35
    assert lines[-1].startswith("ade20k_150: 7 of 7 images, ")


def test_tfds_reads_the_folder(root):
    prepared(root)
    builder = tfds.builder_from_directory(layout.prepared_folder(root, "ade20k_150"))
    assert (builder.name, str(builder.version), builder.info.splits["val"].num_examples) == ("ade20k_150", "1.0.0", 7)
    assert builder.info.splits["val"].shard_lengths == [2, 2, 3]
    data = builder.as_data_source("val[2:4]")
    assert [data[k]["name"] for k in range(2)] == [b"ADE_val_3", b"ADE_val_4"]
    assert data[0]["label"][0, :, 0].tolist() == [255, 2, 149]
    assert "tensorflow" not in sys.modules


def test_finished_shards_are_kept(root):
    prepared(root)
    folder = layout.prepared_folder(root, "ade20k_150")
    first, second, third = (folder / layout.shard_name("ade20k_150", "val", k, 3) for k in range(3))
    before = {path: path.stat().st_mtime_ns for path in (first, second, third)}
    second.unlink()
    (folder / "shards" / f"{third.name}.json").unlink()
    (folder / f".{second.name}.part").write_bytes(b"half of a shard")
    _, lines = prepared(root)
    assert lines[0] == "ade20k_150: 2 of 7 images were prepared before"
    assert first.stat().st_mtime_ns == before[first]
    assert third.stat().st_mtime_ns > before[third]
    assert not list(folder.glob(".*.part"))
    assert len(PreparedSource(root, "ade20k_150", "val")) == 7


def test_a_finished_preparation_is_left_as_it_is(root):
    facts, _ = prepared(root)
    again, lines = prepared(root, jobs=2)
    assert lines == ["ade20k_150: 7 of 7 images were prepared before"]
    assert again == facts


def test_a_shard_of_other_bytes_is_written_again(root):
    prepared(root)
    path = layout.prepared_folder(root, "ade20k_150") / layout.shard_name("ade20k_150", "val", 1, 3)
    path.write_bytes(path.read_bytes()[:-100])
    assert prepared(root)[1][0] == "ade20k_150: 5 of 7 images were prepared before"
    assert PreparedSource(root, "ade20k_150", "val")[3]["label"][0, 1] == 3


def test_a_stopped_preparation_is_not_read(root, monkeypatch):
    real, written = shards.write_shard, []

    def stop_at_the_third(shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        return real(shard)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            prepared(root)
    with pytest.raises(
        ValueError, match=r"lacks val: it was stopped before its end; this command continues it: ahs-seg data prepare"
    ):
        PreparedSource(root, "ade20k_150", "val")
    assert prepared(root)[1][0] == "ade20k_150: 4 of 7 images were prepared before"


@pytest.mark.slow
def test_a_killed_process_is_continued(tmp_path):
    label = np.random.default_rng(0).integers(0, 151, (211, 263), np.uint8)
    trees.ade20k_150(tmp_path, {f"ADE_val_{k:03d}": label for k in range(500)})
    command = [sys.executable, "-c", "from tests.data.prepared.test_preparation import run; run()", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    sheets = layout.prepared_folder(tmp_path, "ade20k_150") / "shards"
    while len(list(sheets.glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    for _ in range(600):  # its own processes end as well
        if not alive(process.pid):
            break
        time.sleep(0.05)
    assert not alive(process.pid)
    with pytest.raises(ValueError, match="this command continues it"):
        PreparedSource(tmp_path, "ade20k_150", "val")
    lines = prepared(tmp_path)[1]
    assert 6 <= int(lines[0].split()[1]) < 500
    assert lines[0].endswith("of 500 images were prepared before")
    source = PreparedSource(tmp_path, "ade20k_150", "val")
    assert [source.name(k) for k in (0, 499)] == ["ADE_val_000", "ADE_val_499"]
    np.testing.assert_array_equal(source[499]["label"], label.astype(np.int32) - 1)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run():
    """What the killed process does."""
    shards.SHARD_EXAMPLES = 3
    prepared(pathlib.Path(sys.argv[1]), jobs=2)


@pytest.mark.slow
def test_several_processes_write_the_same_records(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    facts = [trees.prepared(ADE, root, target, jobs=jobs) for target, jobs in ((root, 1), (other, 2))]
    one, two = (found["splits"]["val"] for found in facts)
    assert one == two
    one, two = (PreparedSource(target, "ade20k_150", "val") for target in (root, other))
    for k in range(7):
        np.testing.assert_array_equal(one[k]["label"], two[k]["label"])
        np.testing.assert_array_equal(one[k]["image"], two[k]["image"])


def test_other_files_do_not_replace_a_whole_split(root):
    whole = dataclasses.replace(ADE, counts={"val": (7,)})
    prepared(root, whole, partial=False, limit=3)
    prepared(root, whole, partial=False)  # a trial makes way
    message = r"holds 7 examples of val, prepared from other files .* pass --again to replace them"
    with pytest.raises(ValueError, match=message):
        prepared(root, whole, partial=False, limit=2)
    trees.ade20k_150(root, {"ADE_val_1": rows([1, 1, 1, 1])})
    with pytest.raises(ValueError, match=message):
        prepared(root, whole, partial=False)
    assert len(PreparedSource(root, "ade20k_150", "val")) == 7
    facts, _ = prepared(root, whole, partial=False, limit=2, again=True)
    assert (facts["splits"]["val"]["limit"], len(PreparedSource(root, "ade20k_150", "val"))) == (2, 2)
    assert len(list(layout.prepared_folder(root, "ade20k_150").glob("*.array_record-*"))) == 1


def test_incomplete_downloads_are_refused_unless_asked_for(root):
    (root / "ADEChallengeData2016/images/validation/ADE_val_4.jpg").unlink()
    with pytest.raises(preparation.DataAbsent) as caught:
        prepared(root, partial=False)
    for part in (
        "val: 6 images with labels, the published set has 2,000",
        "1 label(s) without image: ADE_val_4",
        "--partial",
        "ADEChallengeData2016.zip",
    ):
        assert part in str(caught.value)
    assert not (root / "prepared").exists()


def test_absent_downloads_say_where_they_come_from(tmp_path):
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(b"")
    with pytest.raises(preparation.DataAbsent) as caught:
        prepared(tmp_path)
    for part in (
        f"ade20k_150: {tmp_path} lacks ADEChallengeData2016/images/validation",
        f"{tmp_path} holds ADEChallengeData2016.zip",
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        f"ahs-seg data prepare ade20k_150 --root {tmp_path}",
    ):
        assert part in str(caught.value)


def test_empty_folders_hold_nothing_to_prepare(tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / "ADEChallengeData2016" / kind / "validation").mkdir(parents=True)
    with pytest.raises(preparation.DataAbsent, match="ade20k_150 val: there is no image with labels"):
        prepared(tmp_path)


def test_an_unreadable_file_is_left_out_named_and_tried_again(root):
    path = root / "ADEChallengeData2016/annotations/validation/ADE_val_4.png"
    content = path.read_bytes()
    path.write_bytes(b"not an image")
    facts, _ = prepared(root)
    assert (facts["splits"]["val"]["images"], facts["splits"]["val"]["failed_count"]) == (6, 1)
    assert facts["splits"]["val"]["failed"][0]["name"] == "ADE_val_4"
    assert "ADE_val_4.png cannot be read: UnidentifiedImageError" in facts["splits"]["val"]["failed"][0]["cause"]
    source = PreparedSource(root, "ade20k_150", "val")
    assert [source.name(k) for k in (2, 3)] == ["ADE_val_3", "ADE_val_5"]
    path.write_bytes(content)
    facts, lines = prepared(root)
    assert lines[0] == "ade20k_150: 5 of 7 images were prepared before"
    assert (facts["splits"]["val"]["images"], facts["splits"]["val"]["failed_count"]) == (7, 0)


def test_a_shard_of_unreadable_files_is_empty(root):
    for k in (1, 2):
        (root / f"ADEChallengeData2016/images/validation/ADE_val_{k}.jpg").write_bytes(b"")
    facts, _ = prepared(root)
    assert facts["splits"]["val"]["shard_lengths"] == [0, 2, 3]
    source = PreparedSource(root, "ade20k_150", "val")
    assert [int(source[k]["label"][0, 1]) + 1 for k in range(5)] == [3, 4, 5, 6, 7]


def test_nothing_readable_at_all(tmp_path):
    trees.ade20k_150(tmp_path, {"ADE_val_1": rows([1])})
    (tmp_path / "ADEChallengeData2016/images/validation/ADE_val_1.jpg").write_bytes(b"")
    with pytest.raises(preparation.DataAbsent, match=r"val: no image could be read: .*ADE_val_1\.jpg cannot be read"):
        prepared(tmp_path)


def test_splits_come_one_by_one_and_stay(tmp_path):
    known = BENCHMARKS["coco_stuff"]
    trees.coco_stuff(tmp_path, "val", {"000000000139": rows([0, 181])})
    facts, lines = prepared(tmp_path, known=known)
    assert list(facts["splits"]) == ["val"]
    assert lines[0].startswith("coco_stuff train is left out: ")
    trees.coco_stuff(tmp_path, "train", {"000000000009": rows([1, 2]), "000000000025": rows([3, 4])})
    (tmp_path / "coco-stuff/images/val2017/000000000139.jpg").unlink()
    (tmp_path / "coco-stuff/images/val2017").rmdir()
    assert set(prepared(tmp_path, known=known)[0]["splits"]) == {"train", "val"}
    assert PreparedSource(tmp_path, "coco_stuff", "train")[1]["label"][0].tolist() == [3, 4]
    assert PreparedSource(tmp_path, "coco_stuff", "val")[0]["label"][0].tolist() == [0, 170]
    builder = tfds.builder_from_directory(layout.prepared_folder(tmp_path, "coco_stuff"))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "val": 1}


def test_two_processes_do_not_write_one_folder(root):
    folder = layout.prepared_folder(root, "ade20k_150")
    (folder / "shards").mkdir(parents=True)
    with preparation._alone(folder), pytest.raises(ValueError, match="another process is preparing"):
        prepared(root)
    prepared(root)


def test_no_more_shards_than_a_reader_may_keep_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_SHARDS", 4)
    pairs = [benchmark.Pair(str(k), tmp_path, tmp_path) for k in range(1001)]
    planned = shards.plan("ade20k_150", "val", pairs, tmp_path)
    assert [len(shard.pairs) for shard in planned] == [250, 250, 250, 251]
    assert planned[3].path.name == "ade20k_150-val.array_record-00003-of-00004"


def test_facts_are_json(root):
    facts, _ = prepared(root)
    assert layout.read_facts(layout.prepared_folder(root, "ade20k_150")) == json.loads(json.dumps(facts))
