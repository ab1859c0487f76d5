"""Measures one piece of work: its time, floating-point operations, memory and compilations."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import machine, memory
from benchmarks.counting import flops, traffic

WARM_UP = 2  # calls that do not count
MOST_SECONDS = 60.0  # after which no further repetition is started, once there are three
FEWEST = 3

Record = dict[str, Any]


@dataclasses.dataclass
class Program:
    """A jitted function and its arguments.

    `advance(result, args)` gives the arguments of the next call; without it every call has the same.
    """

    function: Any
    args: tuple[Any, ...]
    items: float
    unit: str
    advance: Callable[[Any, tuple[Any, ...]], tuple[Any, ...]] | None = None
    useful: Callable[..., Any] | None = None  # the same result without recomputation, for the useful work


@dataclasses.dataclass
class Action:
    """Work that is more than one program: `call(i)` does it for the i-th time and returns when it is done."""

    call: Callable[[int], Any]
    items: float
    unit: str
    reference: tuple[Callable[..., Any], tuple[Any, ...]] | None = None  # a function of shapes with the same work


class Compiles:
    """Counts XLA's compilations and their seconds. A program that comes from the cache on disk counts as well."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.count += 1
            self.seconds += duration_secs


def spread(seconds: Sequence[float]) -> Record:
    """Median, quartiles, extremes and all values."""
    ordered = sorted(seconds)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {
        "median": statistics.median(ordered),
        "quartiles": [quartiles[0], quartiles[2]],
        "fastest": ordered[0],
        "slowest": ordered[-1],
        "all": list(seconds),
    }


def timed(call: Callable[[int], Any], repetitions: int, warm_up: int = WARM_UP) -> tuple[list[float], int]:
    """Seconds of each repetition, and the number of calls before them. Long work is repeated less often."""
    for i in range(warm_up):
        call(i)
    seconds: list[float] = []
    while len(seconds) < repetitions and (len(seconds) < FEWEST or sum(seconds) < MOST_SECONDS):
        started = time.perf_counter()
        call(warm_up + len(seconds))
        seconds.append(time.perf_counter() - started)
    return seconds, warm_up


def measure(work: Program | Action, repetitions: int, dtype: str) -> Record:
    """The record of a piece of work; docs/performance.md says what its figures mean."""
    compiles = Compiles()
    before = memory.peak_process_bytes()
    record = (
        _measure_program(work, repetitions, compiles)
        if isinstance(work, Program)
        else _measure_action(work, repetitions, compiles)
    )
    peak = {
        "process_bytes": memory.peak_process_bytes(),
        "process_bytes_before": before,
        "device_bytes": machine.peak_device_bytes(),
        **record.pop("memory", {}),
    }
    record |= {"peak_memory": peak, "ceiling": machine.ceiling(dtype)}
    return record | rates(record)


def _measure_program(work: Program, repetitions: int, compiles: Compiles) -> Record:
    started = time.perf_counter()
    lowered = work.function.lower(*work.args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = {"trace": traced - started, "compile": time.perf_counter() - traced}
    state = work.args
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)

    def call(_: int) -> None:
        nonlocal state
        result = jax.block_until_ready(compiled(*state))
        state = work.advance(result, state) if work.advance else state

    first = compiles.count
    seconds, _ = timed(call, repetitions)
    program = flops.count(work.function, *shapes)
    record = _record(work, seconds, program.flops) | {
        "compiles": {"before": first, "timed": compiles.count - first},
        "compile_seconds": compile_seconds,
        "bytes": traffic.bytes_moved(compiled.as_text()),
        "unknown_loops": program.unknown_loops,
        "xla_loops_once": _xla(compiled),
        "memory": {"compiled_temporary_bytes": compiled.memory_analysis().temp_size_in_bytes},
    }
    if work.useful:
        record["useful_flops"] = flops.count(work.useful, *shapes).flops
    return record


def _xla(compiled: Any) -> Record:
    """XLA's own figures, which count each loop's body once."""
    found = compiled.cost_analysis() or {}
    return {"flops": found.get("flops"), "bytes": found.get("bytes accessed")}


def _measure_action(work: Action, repetitions: int, compiles: Compiles) -> Record:
    counts: list[int] = []

    def call(index: int) -> None:
        jax.block_until_ready(work.call(index))
        counts.append(compiles.count)

    seconds, warm_up = timed(call, repetitions)
    reference = flops.count(work.reference[0], *work.reference[1]).flops if work.reference else None
    before = counts[warm_up - 1]
    return _record(work, seconds, reference) | {"compiles": {"before": before, "timed": counts[-1] - before}}


def _record(work: Program | Action, seconds: Sequence[float], flops: float | None) -> Record:
    found = spread(seconds)
    return {
        "seconds": found,
        "items": work.items,
        "unit": work.unit,
        "throughput": work.items / found["median"],
        "flops": flops,
    }


def rates(record: Record) -> Record:
    """The achieved FLOP/s and its share of the ceiling; the roofline's time and its share of the measured time.

    The roofline's time is the longer of two: all matrix work at the measured ceiling, all traffic at a copy's speed.
    """
    ceiling, seconds = record["ceiling"], record["seconds"]["median"]
    if not record.get("flops"):
        return {}
    work = record.get("useful_flops") or record["flops"]
    found = {
        "flops_per_second": record["flops"] / seconds,
        "ceiling_share": record["flops"] / seconds / ceiling["flops_per_second"],
        "mfu": work / seconds / ceiling["flops_per_second"],
    }
    bounds = {"matrix": record["flops"] / ceiling["flops_per_second"]}
    if record.get("bytes"):
        bounds["memory"] = record["bytes"] / ceiling["bytes_per_second"]
    bound = max(bounds, key=lambda name: bounds[name])
    return found | {"roofline": {"seconds": bounds[bound], "bound_by": bound, "share": bounds[bound] / seconds}}
