"""What one process does for all of them, where others fail."""

import pytest

from ahs_seg_jax.devices import distributed, processes


def test_one_process_alone():
    assert processes.all_or_none(lambda one, two: one + two, 1, 2) == 3
    with pytest.raises(KeyError, match="mine"):
        processes.all_or_none({}.__getitem__, "mine")


def test_a_failure_in_another_process_is_raised_here_too(monkeypatch):
    told = []
    exchange = lambda _what, text: told.append(text) or [text, "the disk is torn"]
    monkeypatch.setattr(distributed, "exchange", exchange)
    with pytest.raises(RuntimeError, match="process 1: the disk is torn"):
        processes.all_or_none(lambda: 3)
    with pytest.raises(KeyError, match="mine"):  # its own failure is told to the others, and raised as it is
        processes.all_or_none({}.__getitem__, "mine")
    assert told == ["", "'mine'"]
