"""The tables of docs/training_free_programs.md, from records of `training_free_goldens` and `free_parity`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.published.free_job import PROGRAMS
from benchmarks.results_file import table

Record = Mapping[str, Any]
STAGES = ("dense", "grid", "mean", "refined", "probabilities")


def block(records: Iterable[Record]) -> str:
    """The Markdown of both tables; empty if there is no record."""
    records = list(records)
    parts = {
        "## Stored numbers, stage by stage": goldens([r for r in records if r["name"] == "free_goldens"]),
        "## The programs themselves, on other pictures": programs([r for r in records if r["name"] == "free_parity"]),
    }
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items() if text)


def goldens(records: Iterable[Record]) -> str:
    """A line for each case of each file; the values are largest differences, as shares of the largest value."""
    rows = []
    for record in records:
        for case, found in record["cases"].items():
            rows.append(
                [
                    *(record["settings"]["model"], case, "the same" if found["resized"] == 1 else "other bytes"),
                    *(f"{found[stage]:.1e}" for stage in STAGES),
                    f"{100 * found['labels']:.3f} %",
                ]
            )
    header = ("model", "case", "resized image", *STAGES, "equal labels")
    return table(header, rows) if rows else ""


def programs(records: Iterable[Record]) -> str:
    """A line for each tower and method."""
    rows = []
    for record in records:
        by_method: dict[str, list[Record]] = defaultdict(list)
        for case in record["cases"]:
            by_method[case["method"]].append(case)
        for method, cases in by_method.items():
            sides = [side for case in cases for side in case["size"]]
            queries = [case["queries"] for case in cases]
            rows.append(
                [
                    *(record["settings"]["tower"], method, PROGRAMS[method], str(len(cases))),
                    f"{min(sides)} to {max(sides)}",
                    f"{min(queries)} to {max(queries)}",
                    f"{max(case['largest_difference'] for case in cases):.1e}",
                    f"{100 * max(case['share_over'] for case in cases):.2g} %",
                    f"{100 * min(case['equal_labels'] for case in cases):.3f} %",
                    f"{sum(case['passed'] for case in cases)} of {len(cases)}",
                ]
            )
    header = (
        *("tower", "method", "program", "pictures", "sides, pixels", "queries", "largest difference of logits"),
        *("values over the bound", "equal labels, fewest", "within the bounds"),
    )
    return table(header, rows) if rows else ""
