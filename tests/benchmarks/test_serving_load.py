"""The load test of the server, against a server whose model is a stand-in: what it counts and what it calls lost."""

import contextlib
import os
import types

import pytest

pytest.importorskip("fastapi_offline")

from ahs_seg_jax.admission import Hosts
from ahs_seg_jax.serve.app import build
from ahs_seg_jax.serve.limits import Limits
from benchmarks import serving_load
from tests.support.halves import HalvesSegmenter
from tests.support.serving import Running


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a server in this process in the command's place."""
    monkeypatch.setattr(serving_load, "HALF_OPEN", 5)
    monkeypatch.setattr(serving_load, "SLOW", 3)
    monkeypatch.setattr(serving_load, "BOMBS", 2)

    @contextlib.contextmanager
    def server(arguments):
        limits, segmenter = Limits(), HalvesSegmenter()
        segment = lambda images, words: segmenter(images, words.names)
        running = Running(build(segment, limits, Hosts.of("127.0.0.1"), ""), limits)
        try:
            yield types.SimpleNamespace(pid=os.getpid()), running.port
        finally:
            running.stop()

    monkeypatch.setattr(serving_load, "server", server)


@pytest.mark.parametrize("attacked", [False, True])
def test_every_request_is_answered(stand_in, attacked):
    found = serving_load.measured(12, 3, attacked, [])
    assert (found["requests"], found["clients"], found["lost"]) == (12, 3, 0)
    assert 0 < found["median_seconds"] <= found["p95_seconds"] <= found["longest_seconds"] < 30
    assert found["images_of_a_call"] >= 1
    assert len(found["resident_mb"]) >= 11
    assert found["attack"] == ({"half_open": 5, "slow": 3, "bombs_answered_413": 2} if attacked else {})
