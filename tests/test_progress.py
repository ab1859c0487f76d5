"""Lines of progress, with a clock that the test turns."""

import pytest

from ahs_seg_jax import progress
from ahs_seg_jax.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_rate_and_time_left(clock):
    lines = []
    work = Progress(10_000, lines.append, "read")
    for second, done in ((4, 1), (6, 21), (7, 22), (12, 81), (40, 9_973)):
        clock[0] = 100.0 + second
        work.show(done, " of this process" if done == 81 else "")
    assert lines == [
        "read 21 of 10,000 images, 10 images/s, 17 min left",  # 20 in 2 s: what came before the first report is no part
        "read 81 of 10,000 images of this process, 10 images/s, 17 min left",
        "read 9,973 of 10,000 images, 277 images/s, 0 s left",
    ]


def test_without_a_rate_there_is_none(clock):
    lines = []
    work = Progress(7, lines.append, "segmented", "windows")
    clock[0] += 6
    work.show(2)
    clock[0] += 6
    work.show(2)
    assert lines == ["segmented 2 of 7 windows", "segmented 2 of 7 windows"]


def test_things_that_pass_are_counted_on(clock):
    lines = []
    work = Progress(5, lines.append, "checked", "pairs")

    def slowly(things):
        for thing in things:
            clock[0] += 4
            yield thing

    assert [*work.each(slowly("ab")), *work.each(slowly("cde"))] == list("abcde")
    assert lines == ["checked 2 of 5 pairs, 0.25 pairs/s, 12 s left", "checked 4 of 5 pairs, 0.25 pairs/s, 4 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (185, "3 min"), (7199, "2 h 00 min"), (7620, "2 h 07 min")],
)
def test_a_time_for_people(seconds, text):
    assert duration(seconds) == text
