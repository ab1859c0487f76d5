"""Images that wait with the same words go into one call; nobody is lost, nobody gets another's answer."""

import threading
import time

import numpy as np
import pytest

from ahs_seg_jax.serve.batching import Batches, Words
from ahs_seg_jax.serve.limits import Refused

CAT, DOG = Words(("cat",)), Words(("dog",))


class Model:
    """Answers with the image's first pixel and the words; waits for `go` before each call."""

    def __init__(self):
        self.calls, self.go, self.bad = [], threading.Semaphore(0), set()

    def __call__(self, images, words):
        self.go.acquire()
        values = [int(image[0, 0, 0]) for image in images]
        self.calls.append((words.names[0], values))
        if self.bad & set(values):
            raise MemoryError("too large")
        return [(words.names[0], value) for value in values]


def image(value):
    return np.full((2, 3, 3), value, np.uint8)


@pytest.fixture
def model():
    return Model()


def started(model, together=8, observe=lambda images: None):
    """Batches whose model is at work on a first image, and its answer: what is asked next has to wait."""
    batches = Batches(model, together, observe)
    first = batches.ask(image(0), CAT)
    deadline = time.monotonic() + 5
    while not first.running():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return batches, first


def finish(model, batches, calls):
    for _ in range(calls):
        model.go.release()
    return batches


def test_what_waits_with_the_same_words_shares_a_call(model):
    seen = []
    batches, first = started(model, together=4, observe=seen.append)
    asked = [
        (value, words, batches.ask(image(value), words))
        for value, words in zip(range(1, 9), [CAT, DOG] * 4, strict=True)
    ]
    finish(model, batches, 3)
    assert [first.result(5), *(answer.result(5) for *_, answer in asked)] == [("cat", 0)] + [
        (words.names[0], value) for value, words, _ in asked
    ]
    assert model.calls == [("cat", [0]), ("cat", [1, 3, 5, 7]), ("dog", [2, 4, 6, 8])]
    assert seen == [1, 4, 4]
    batches.close()


def test_calls_take_powers_of_two(model):
    batches, first = started(model)
    asked = [batches.ask(image(value), CAT) for value in range(1, 8)]
    finish(model, batches, 4)
    assert [answer.result(5)[1] for answer in [first, *asked]] == list(range(8))
    assert [len(values) for _, values in model.calls] == [1, 4, 2, 1]
    batches.close()


def test_what_is_cancelled_is_left_out(model):
    batches, first = started(model)
    asked = [batches.ask(image(value), CAT) for value in (1, 2, 3)]
    assert asked[0].cancel()
    finish(model, batches, 2)
    assert first.result(5) == ("cat", 0)
    assert [answer.result(5)[1] for answer in asked[1:]] == [2, 3]
    assert model.calls == [("cat", [0]), ("cat", [2, 3])]
    batches.close()


def test_one_that_fails_fails_alone(model):
    batches, first = started(model)
    model.bad = {2}
    asked = [batches.ask(image(value), CAT) for value in (1, 2, 3, 4)]
    finish(model, batches, 6)
    assert first.result(5) == ("cat", 0)
    assert [answer.result(5)[1] for answer in asked if answer is not asked[1]] == [1, 3, 4]
    with pytest.raises(MemoryError, match="too large"):
        asked[1].result(5)
    assert batches.alive()
    batches.close()


def test_at_the_end_nobody_waits_for_ever(model):
    batches, first = started(model)
    waiting = batches.ask(image(1), CAT)
    model.go.release()
    batches.close()
    assert first.result(5) == ("cat", 0)
    assert waiting.cancelled()
    assert not batches.alive()
    with pytest.raises(Refused, match="stopping"):
        batches.ask(image(2), CAT)
