"""Records of small work: what is counted, timed and derived."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import machine, measure
from benchmarks.measure import Action, Program

CEILING = {"flops_per_second": 1000.0, "bytes_per_second": 100.0}


@pytest.fixture
def small_ceiling(monkeypatch):
    monkeypatch.setattr(machine, "ceiling", lambda dtype: CEILING)


def test_spread_by_hand():
    found = measure.spread([3.0, 1.0, 2.0, 5.0, 4.0])
    assert found == {
        "median": 3.0,
        "quartiles": [2.0, 4.0],
        "fastest": 1.0,
        "slowest": 5.0,
        "all": [3.0, 1.0, 2.0, 5.0, 4.0],
    }
    assert measure.spread([7.0])["quartiles"] == [7.0, 7.0]


def test_long_work_is_repeated_less_often(monkeypatch):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    calls = []
    seconds, warm_up = measure.timed(calls.append, repetitions=10)
    assert (seconds, warm_up) == ([40] * measure.FEWEST, measure.WARM_UP)
    assert calls == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("flops", "moved", "bound", "seconds"), [(500.0, 10.0, "matrix", 0.5), (500.0, 80.0, "memory", 0.8)]
)
def test_rates_by_hand(flops, moved, bound, seconds):
    record = {"seconds": {"median": 2.0}, "flops": flops, "useful_flops": 400.0, "bytes": moved, "ceiling": CEILING}
    found = measure.rates(record)
    assert found["flops_per_second"] == 250.0
    assert (found["ceiling_share"], found["mfu"]) == (0.25, 0.2)
    assert found["roofline"] == {"seconds": seconds, "bound_by": bound, "share": seconds / 2}


def test_program_is_compiled_once_and_handed_its_own_result(small_ceiling):
    seen = []

    def advance(result, args):
        seen.append(float(np.asarray(result)[0, 0]))
        return result, args[1]

    program = Program(
        jax.jit(lambda x, w: x @ w, donate_argnums=0), (jnp.ones((3, 3)), jnp.eye(3) * 2), 3, "rows", advance
    )
    record = measure.measure(program, repetitions=4, dtype="float32")
    assert seen == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    assert record["compiles"]["timed"] == 0
    assert record["flops"] == 2 * 27
    assert record["bytes"] >= 3 * 36
    assert len(record["seconds"]["all"]) == 4
    assert record["throughput"] == 3 / record["seconds"]["median"]
    assert record["peak_memory"]["process_bytes"] >= record["peak_memory"]["process_bytes_before"] > 1e7
    assert {"mfu", "roofline", "xla_loops_once", "compile_seconds"} <= set(record)


def test_action_counts_compiles_in_the_timed_calls(small_ceiling):
    grow = jax.jit(lambda x: x + 1)  # a new size at every call: compiles every time
    record = measure.measure(Action(lambda i: grow(jnp.zeros(i + 3)), 1, "calls"), repetitions=3, dtype="float32")
    assert record["compiles"]["timed"] >= 3
    assert record["flops"] is None
    assert "mfu" not in record
    steady = measure.measure(
        Action(lambda i: grow(jnp.zeros(3)), 1, "calls", (lambda x: x @ x, (jnp.ones((2, 2)),))), 3, "float32"
    )
    assert steady["compiles"]["timed"] == 0
    assert steady["flops"] == 16


def test_ceiling_and_description(monkeypatch):
    monkeypatch.setattr(machine, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 4096})
    found = machine.ceiling("bfloat16")
    assert min(found.values()) > 0
    about = machine.describe()
    assert about["platform"] == "cpu"
    assert about["cores"] >= 1
    assert machine.peak_device_bytes() is None
