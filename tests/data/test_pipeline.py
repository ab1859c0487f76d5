"""Batches: the same for every number of threads and processes, resumable, and unharmed by corrupt files."""

import logging

import numpy as np
import pytest

from ahs_seg_jax.config import AugmentConfig
from ahs_seg_jax.data.pipeline import train_batches
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.vocabulary import Vocabulary

AUGMENT = AugmentConfig(scale=(0.8, 1.4))
KEYS = ("image", "label", "index")


class Numbers:
    """A data set of n small images; those in `corrupt` cannot be read."""

    vocabulary = Vocabulary(("a", "b"))

    def __init__(self, n=11, corrupt=()):
        self.n, self.corrupt = n, frozenset(corrupt)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index in self.corrupt:
            raise CorruptExample(f"{self.name(index)} cannot be read: OSError: broken")
        rng = np.random.default_rng(index)
        return {"image": rng.integers(0, 256, (19, 23, 3), np.uint8), "label": np.full((19, 23), index % 2, np.int32)}

    def name(self, index):
        return f"{index}.jpg"

    def fingerprint(self):
        return {}


def batches(count, source=None, **changes):
    settings = {"crop": 13, "augment": AUGMENT, "batch_size": 4, "seed": 7, "num_threads": 0, **changes}
    stream = train_batches(Numbers() if source is None else source, **settings)
    return [next(stream) for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])


def test_shapes_and_types():
    (batch,) = batches(1)
    assert set(batch) == set(KEYS)
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 13, 13, 3), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((4, 13, 13), np.int32)
    assert (batch["index"].shape, batch["index"].dtype) == ((4,), np.int32)


def test_every_epoch_is_a_new_permutation_with_new_augmentation():
    stream = batches(33)  # 12 epochs of 11 examples
    order = np.concatenate([batch["index"] for batch in stream])
    epochs = order.reshape(12, 11)
    assert (np.sort(epochs, axis=1) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 10
    images = np.concatenate([batch["image"] for batch in stream])
    assert len({image.tobytes() for image in images[order == 3]}) > 10


def test_seed_decides():
    assert_same(batches(3), batches(3))
    assert (batches(1)[0]["image"] != batches(1, seed=8)[0]["image"]).any()


def test_threads_do_not_change_the_batches():
    assert_same(batches(6), batches(6, num_threads=3, prefetch=5))


def test_resume_equals_uninterrupted():
    whole = batches(9)
    for start in (1, 5, 8):
        assert_same(whole[start:], batches(9 - start, start_batch=start))


@pytest.mark.parametrize("cut", [2, 3])
def test_rows_of_all_processes_are_the_same_batches(cut):
    whole = batches(7)
    parts = [batches(7, rows=rows, num_threads=2) for rows in (range(cut), range(cut, 4))]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in KEYS} for a, b in zip(*parts, strict=True)]
    assert_same(whole, joined)
    assert_same(
        joined[5:],
        [
            {k: np.concatenate([a[k], b[k]]) for k in KEYS}
            for a, b in zip(
                *(batches(2, rows=rows, start_batch=5) for rows in (range(cut), range(cut, 4))), strict=True
            )
        ],
    )


def test_fewer_examples_than_a_batch():
    stream = batches(3, Numbers(3), batch_size=5)
    assert np.concatenate([b["index"] for b in stream])[:3].tolist() != [0, 0, 0]
    assert np.bincount(np.concatenate([b["index"] for b in stream])).tolist() == [5, 5, 5]


def test_corrupt_example_stops_the_run_by_name():
    for threads in (0, 2):
        with pytest.raises(CorruptExample, match=r"6\.jpg cannot be read: OSError: broken"):
            batches(3, Numbers(corrupt=[6]), num_threads=threads)


def test_corrupt_examples_are_skipped_counted_and_named_once(caplog):
    source = Numbers(corrupt=[6, 7])
    stream = train_batches(source, crop=13, augment=AUGMENT, batch_size=11, seed=7, num_threads=0, on_corrupt="skip")
    with caplog.at_level(logging.WARNING):
        drawn = [np.sort(next(stream)["index"]).tolist() for _ in range(2)]
    assert drawn == [[0, 1, 2, 3, 4, 5, 8, 8, 8, 9, 10]] * 2  # 8 stands in for 6 and 7
    assert stream.skipped == {"6.jpg": 2, "7.jpg": 4}  # 7 is met as itself and in the place of 6
    assert [record.message for record in caplog.records].count(
        "skipping a corrupt example from now on: 6.jpg cannot be read: OSError: broken"
    ) == 1
    assert len(caplog.records) == 2
    assert_same(batches(4, source, on_corrupt="skip"), batches(4, source, on_corrupt="skip", num_threads=2))


def test_nothing_readable():
    with pytest.raises(CorruptExample, match="none of the 2 examples can be read"):
        batches(1, Numbers(2, corrupt=[0, 1]), on_corrupt="skip")


def test_errors():
    with pytest.raises(ValueError, match="holds no examples"):
        batches(1, Numbers(0))
    with pytest.raises(ValueError, match=r"rows \[3, 4\] are not in a batch of 4 examples"):
        batches(1, rows=range(3, 5))
    with pytest.raises(ValueError, match="on_corrupt is 'ignore'; choose stop or skip"):
        batches(1, on_corrupt="ignore")
