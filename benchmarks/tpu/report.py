"""The table of one TPU chip, from the records of `benchmarks.tpu.estimate`."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results_file import table

Record = Mapping[str, Any]


def milliseconds(seconds: float) -> str:
    """Seconds in milliseconds, with the unit."""
    return f"{1e3 * seconds:,.0f} ms"


def _estimate(record: Record) -> str:
    whole = record["estimated_seconds"]
    if whole is None:
        return "not made"
    kinds = ", ".join(f"{kind} {seconds / whole:.0%}" for kind, seconds in record["estimated_by_kind"].items())
    return f"{milliseconds(whole)} ({kinds})"


def _name(record: Record) -> str:
    return f"{record['work']}, batch {record['batch']}"


def times(records: Sequence[Record]) -> str:
    """One line for each program: its work, the times that it cannot be faster than, and XLA's own estimate."""
    header = (
        "work",
        "chip",
        "matrix work",
        "at full rate",
        "main memory",
        "roofline",
        "XLA's estimate",
    )
    rows = [
        [
            *(_name(record), record["chip"], f"{record['flops'] / 1e12:.1f} TFLOP"),
            *(milliseconds(record[name]) for name in ("compute_seconds", "memory_seconds")),
            f"{milliseconds(record['roofline']['seconds'])} ({record['roofline']['bound_by']})",
            _estimate(record),
        ]
        for record in records
    ]
    return table(header, rows)


def block(records: Sequence[Record]) -> str:
    """One table for each model size; empty without records."""
    pieces = []
    for size in dict.fromkeys(record["size"] for record in records):
        here = [record for record in records if record["size"] == size]
        pieces.append(f"### {size}, {here[0]['dtype']}, one chip\n\n{times(here)}")
    return "\n\n".join(pieces)
