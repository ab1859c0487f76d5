"""Writes beside the training: in order, never waited for, one warning for each outage."""

import threading

from ahs_seg_jax.storage.background import Writer


def test_in_order_and_without_waiting():
    free, done = threading.Event(), []
    writer = Writer()
    writer.do("one", free.wait)
    for number in range(5):
        writer.do("another", lambda number=number: done.append(number))
    assert done == []
    assert not writer.wait(0.01)
    free.set()
    assert writer.wait(60)
    assert done == [0, 1, 2, 3, 4]


def test_what_has_no_room_is_left_out_and_counted(capsys):
    begun, free, done = threading.Event(), threading.Event(), []
    writer = Writer(room=2)
    writer.do("one", lambda: (begun.set(), free.wait()))
    assert begun.wait(60)
    for number in range(4):
        writer.do(f"write {number}", lambda number=number: done.append(number))
    said = capsys.readouterr().out
    assert said == "WARNING: write 2 could not be written (2 writes before it are not done yet); training goes on\n"
    writer.close(0.01)
    assert "WARNING: 2 writes were given up: no answer within 0.01 s" in capsys.readouterr().out
    free.set()
    assert writer.wait(60)
    assert done == [0, 1]
    assert "written again; 2 writes were lost" in capsys.readouterr().out


def test_one_warning_for_each_outage(capsys):
    def fail():
        raise ConnectionError("nobody there")

    writer = Writer()
    for what, action in (("a", fail), ("b", fail), ("c", int), ("d", int), ("e", fail)):
        writer.do(what, action)
    assert writer.wait(60)
    assert capsys.readouterr().out.splitlines() == [
        "WARNING: a could not be written (ConnectionError: nobody there); training goes on",
        "curves, pictures and results are written again; 2 writes were lost",
        "WARNING: e could not be written (ConnectionError: nobody there); training goes on",
    ]
