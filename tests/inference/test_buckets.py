"""Sizes to which classes are padded, and how many are computed in one pass."""

import pytest

from ahs_seg_jax.inference import (
    buckets,
    labelling,
)


@pytest.mark.parametrize(("count", "expected"), [(1, 8), (8, 8), (9, 16), (171, 192), (847, 1024), (1025, 1280)])
def test_class_buckets(count, expected):
    assert buckets.bucket(count, buckets.CLASS_BUCKETS) == expected


def test_every_class_bucket_is_a_whole_number_of_chunks():
    assert not any(size % labelling.CLASSES_AT_ONCE for size in buckets.CLASS_BUCKETS)


@pytest.mark.parametrize(
    ("classes", "chunk", "together", "size"),
    [
        (150, 6, 1, 6),
        (150, 6, 2, 6),
        (171, 6, 2, 6),
        (150, 6, 8, 5),
        (1000, 256, 1, 250),
        (300, 64, 1, 60),
        (997, 32, 2, 32),
    ],
)
def test_passes_come_out_even(classes, chunk, together, size):
    assert buckets.chunk_size(classes, chunk, together) == size
    assert buckets.chunk_size(classes, size) == size  # what a plan has chosen stays
