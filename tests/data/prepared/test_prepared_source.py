"""Prepared data as a source: attributes that evaluation reads, threads, pickles, damage."""

import concurrent.futures
import json
import pickle

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared import doctor, layout, prepared_source
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support import trees
from tests.support.trees import rows

LABELS = {f"2007_{k:06d}": rows([0, k, 20, 255]) for k in range(1, 12)}


def open_voc(root, name="voc_20b"):
    trees.prepared(BENCHMARKS[name], root)
    return PreparedSource(root, name, "val")


@pytest.fixture
def source(tmp_path):
    trees.voc(tmp_path, LABELS)
    return open_voc(tmp_path)


def test_it_is_a_source(source):
    assert isinstance(source, Source)
    assert len(source) == 11
    assert source.name(10) == "2007_000011"
    example = source[2]
    assert (example["image"].dtype, example["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(example["label"], rows([20, 2, 19, -1], np.int32))
    with pytest.raises(IndexError, match="example 11 of 11"):
        source[11]


def test_background_words_count_as_background(source):
    merge = source.merge_predictions
    assert (merge.dtype, merge.shape) == (np.int32, (59,))
    assert merge[:21].tolist() == list(range(21))
    assert set(merge[20:]) == {20}
    assert source.scored_names == (*Vocabulary.named("voc_20").names, "background")


def test_other_benchmarks_score_what_they_predict(tmp_path):
    trees.voc(tmp_path, LABELS)
    source = open_voc(tmp_path, "voc_20")
    assert source.merge_predictions is None
    assert source.scored_names == source.vocabulary.names


def test_a_copy_reads_the_same(source):
    source.vocabulary = Vocabulary(source.vocabulary.names, templates=("{}",))
    assert len(source[0]) == 2  # a pickle of a source in use
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[4]["image"], source[4]["image"])
    assert copy.vocabulary.templates == ("{}",)
    assert copy.fingerprint() == source.fingerprint()


def test_threads_read_at_once(source):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda k: int(source[k % 11]["label"][0, 1]), range(200)))
    assert labels == [k % 11 for k in range(200)]


def test_grain_reads_it_and_what_tfds_makes_of_it(source):
    builder = tfds.builder_from_directory(source.folder)
    for data, value in (
        (source, lambda e: e["label"][0, 1]),
        (builder.as_data_source("val"), lambda e: e["label"][0, 1, 0]),
    ):
        examples = grain.MapDataset.source(data).shuffle(seed=7).to_iter_dataset(grain.ReadOptions(num_threads=4))
        assert sorted(int(value(example)) for example in examples) == list(range(11))


def test_the_fingerprint_follows_the_labels(tmp_path, source):
    found = source.fingerprint()
    assert found["source"] == "voc_20b"
    assert (found["split"], found["images"], found["preparation"]) == ("val", 11, layout.VERSION)
    assert found["vocabulary_sha256"] == Vocabulary.named("voc_20b").sha256
    json.dumps(found)
    trees.voc(tmp_path / "other", LABELS | {"2007_000001": rows([0, 2, 20, 255])})
    other = open_voc(tmp_path / "other").fingerprint()
    assert {key for key in found if found[key] != other[key]} == {"label_histogram_sha256", "contents_sha256"}


def test_the_fingerprint_follows_contents_that_counts_do_not_show(tmp_path, source, monkeypatch):
    found = source.fingerprint()
    exchanged = LABELS | {"2007_000001": LABELS["2007_000002"], "2007_000002": LABELS["2007_000001"]}
    trees.voc(tmp_path / "other", exchanged)
    other = open_voc(tmp_path / "other").fingerprint()
    assert {key for key in found if found[key] != other[key]} == {"contents_sha256"}
    trees.voc(tmp_path / "same", LABELS)
    assert open_voc(tmp_path / "same").fingerprint() == found

    monkeypatch.setattr(prepared_source, "SAMPLE", 3)  # examples 0, 3 and 7 of 11
    sample = open_voc(tmp_path / "same").fingerprint()["contents_sha256"]
    trees.voc(tmp_path / "third", exchanged | {"2007_000001": LABELS["2007_000001"]})
    assert open_voc(tmp_path / "third").fingerprint()["contents_sha256"] == sample
    trees.voc(tmp_path / "fourth", LABELS | {"2007_000008": LABELS["2007_000009"]})
    assert open_voc(tmp_path / "fourth").fingerprint()["contents_sha256"] != sample


def test_the_fingerprint_of_damaged_records_is_another_one(source):
    before = source.fingerprint()["contents_sha256"]
    damage(source)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint()["contents_sha256"] != before


def damage(source):
    path = next(source.folder.glob("*.array_record-*"))
    content = bytearray(path.read_bytes())
    middle = content.find(b"PNG", len(content) // 2)
    content[middle : middle + 3] = b"OFF"
    path.write_bytes(content)


def test_doctors_verdict_goes_with_the_data(tmp_path, source):
    assert source.doctor_problems == (
        f"the doctor has not examined these data; run ahs-seg data doctor voc_20b --root {tmp_path}",
    )
    doctor.record(tmp_path, "voc_20b")
    assert source.doctor_problems == ("11 images with labels were found, the published set has 1,449",)


def test_damaged_records_are_named(source):
    damage(source)
    failures = []
    for k in range(11):
        try:
            source[k]
        except CorruptExample as error:
            failures.append(str(error))
    assert failures
    assert f"{source.folder}: 2007_0000" in failures[0]
    assert "cannot be read" in failures[0]


def test_absent_and_unknown(tmp_path):
    trees.voc(tmp_path, LABELS)
    with pytest.raises(ValueError, match="voc_20 has no split 'train'; choose one of val"):
        PreparedSource(tmp_path, "voc_20", "train")
    with pytest.raises(ValueError, match="voc_20 is not prepared") as caught:
        PreparedSource(tmp_path, "voc_20", "val")
    for part in (
        f"there is no {tmp_path}/prepared/voc_20/{layout.VERSION}",
        f"{tmp_path} holds VOCdevkit/",
        "VOCtrainval_11-May-2012.tar",
        f"then run: ahs-seg data prepare voc_20 --root {tmp_path}",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=f"{tmp_path} holds VOCdevkit/"):
        PreparedSource(tmp_path / "none", "voc_20", "val")


def test_data_of_another_vocabulary_are_refused(tmp_path, source):
    facts = source.folder / layout.FACTS
    facts.write_text(facts.read_text().replace(source.vocabulary.sha256, "0" * 64))
    with pytest.raises(ValueError, match=r"was prepared for other class names \(21 classes\) .* voc_20b .* --again"):
        PreparedSource(tmp_path, "voc_20b", "val")
