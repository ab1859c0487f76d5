"""The tables of TPU estimates, from the records of `benchmarks.tpu`."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table

Record = Mapping[str, Any]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def _estimate(record: Record) -> str:
    whole = record["estimated_seconds"]
    if whole is None:
        return "not made"
    kinds = ", ".join(f"{kind} {seconds / whole:.0%}" for kind, seconds in record["estimated_by_kind"].items())
    return f"{_milliseconds(whole)} ({kinds})"


def _name(record: Record) -> str:
    return f"{record['work']}, batch {record['batch']}"


def times(records: Sequence[Record]) -> str:
    """One line for each program: its work, and the times that it cannot be faster than."""
    header = (
        "work",
        "chip",
        "matrix work",
        "at full rate",
        "with the padding",
        "main memory",
        "roofline",
        "XLA's estimate",
    )
    rows = [
        [
            *(_name(record), record["chip"], f"{record['flops'] / 1e12:.1f} TFLOP"),
            *(_milliseconds(record[name]) for name in ("compute_seconds", "padded_compute_seconds", "memory_seconds")),
            f"{_milliseconds(record['roofline']['seconds'])} ({record['roofline']['bound_by']})",
            _estimate(record),
        ]
        for record in records
    ]
    return table(header, rows)


def padding(records: Sequence[Record]) -> str:
    """Where the padding comes from: one line for each part of the model, one column for each program."""
    parts = dict.fromkeys(part for record in records for part in record["parts"])
    header = ["padding of the matrix work", *(f"{record['work']}, {record['chip']}" for record in records)]

    def cell(record: Record, part: str) -> str:
        if part not in record["parts"]:
            return ""
        found, whole = record["parts"][part], record["padded_flops"] - record["flops"]
        return f"{found['waste']:.0%}, {(found['padded'] - found['useful']) / whole:.0%} of all"

    rows = [
        ["all, in tiles", *(f"**{record['padding_waste']:.0%}**" for record in records)],
        *([part, *(cell(record, part) for record in records)] for part in parts),
        ["all, in the matrix unit", *(f"{record['unit_waste']:.0%}" for record in records)],
    ]
    return table(header, rows)


def block(records: Sequence[Record]) -> str:
    """All of it, by model size; empty without records."""
    pieces = []
    for size in dict.fromkeys(record["size"] for record in records):
        here = [record for record in records if record["size"] == size]
        pieces.append(f"### {size}, {here[0]['dtype']}, one chip\n\n{times(here)}\n\n{padding(here)}")
    return "\n\n".join(pieces)
