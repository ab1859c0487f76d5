"""The table and the plot of the loss curves, from the records that `benchmarks.published.curve` writes."""

import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.results_file import table

Record = Mapping[str, Any]


def recipe(record: Record) -> str:
    """The recipe of a record."""
    return record["name"].split("_", 2)[2]


def block(records: Iterable[Record]) -> str:
    """The Markdown of both parts; empty if there is no record."""
    records = list(records)
    parts = [
        _same_table([record for record in records if record["name"].startswith("curve_same_")]),
        _fresh_table([record for record in records if record["name"].startswith("curve_fresh_")]),
    ]
    return "\n\n".join(part for part in parts if part)


def _small(value: float | None) -> str:
    return "not run" if value is None else f"{value:.1e}"


def _typical(first: Sequence[float], second: Sequence[float] | None) -> str:
    """The median deviation of the last quarter of two curves, as a share of the first."""
    if second is None:
        return "not run"
    last = len(first) - max(1, len(first) // 4)
    return f"{statistics.median(abs(b - a) / abs(a) for a, b in zip(first[last:], second[last:], strict=True)):.1e}"


def _same_table(records: Sequence[Record]) -> str:
    rows = [
        [
            *(recipe(record), str(record["settings"]["updates"]), str(record["settings"]["batch"])),
            f"{record['published'][0][0]:.4f} to {record['published'][0][-1]:.4f}",
            *(_small(record[name]) for name in ("largest_first", "largest", "at_last")),
            _typical(record["published"][0], record["ours"][0]),
            *(_small(record.get(name)) for name in ("largest_of_rounding_first", "largest_of_rounding")),
            _typical(record["ours"][0], record.get("moved")),
        ]
        for record in records
    ]
    header = (
        *(
            "recipe, same weights",
            "updates",
            "batch",
            "published loss",
            "largest deviation, first 50",
            "all",
            "at the last",
            "median of the last quarter",
        ),
        *("by rounding alone, first 50", "all", "median of the last quarter"),
    )
    return table(header, rows) if rows else ""


def _fresh_table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for mark, found in record["marks"].items():
            sides = [f"{found[side][0]:.4f} ± {found[side][1]:.4f}" for side in ("published", "ours")]
            seeds = str(len(record["settings"]["seeds"]))
            rows.append([recipe(record), mark, seeds, *sides, f"{found['standard_errors']:.2f}"])
    header = ("recipe, fresh values", "update", "seeds", "published", "ours", "standard errors apart")
    return table(header, rows) if rows else ""


def plot(records: Sequence[Record], path: pathlib.Path) -> None:
    """Draws a column for each recipe and a row for each part, the same weights with the deviation of their losses.

    Of a recipe's part that was measured more than once, the longest training is drawn.
    """
    import matplotlib  # only here: the tables need none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(recipe(record) for record in records))
    draw = {"same": _draw_same, "fresh": _draw_fresh}
    parts = [part for part in draw if any(record["name"].startswith(f"curve_{part}_") for record in records)]
    size = (4.2 * len(names), 3 * len(parts))
    figure, axes = pyplot.subplots(len(parts), len(names), figsize=size, squeeze=False, layout="constrained")
    longest = {record["name"]: record for record in sorted(records, key=lambda record: record["settings"]["updates"])}
    for record in longest.values():
        part = record["name"].split("_")[1]
        draw[part](axes[parts.index(part), names.index(recipe(record))], record)
    for axis in axes.flat:
        axis.set_visible(bool(axis.lines))  # not every recipe may have both parts
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _draw_same(axis: Any, record: Record) -> None:
    updates = range(1, len(record["ours"][0]) + 1)
    axis.plot(updates, record["published"][0], color="C0", linewidth=3, alpha=0.4, label="published")
    axis.plot(updates, record["ours"][0], color="C1", linewidth=1, label="ours")
    axis.set(title=f"{recipe(record)}: same weights", ylabel="loss")
    axis.legend(loc="upper right", fontsize="small")
    deviation = axis.twinx()
    beside = [(record["published"][0], "C2", "of ours from published")]
    if "moved" in record:
        beside.append((record["moved"], "C7", "of ours from ours, moved"))
    for other, color, label in beside:
        apart = [abs(b - a) / a for a, b in zip(other, record["ours"][0], strict=True)]
        deviation.plot(updates, [value or float("nan") for value in apart], color=color, linewidth=0.8, label=label)
    deviation.set(yscale="log", ylim=(1e-8, 1), ylabel="relative deviation")
    deviation.legend(loc="lower left", fontsize="small")


def _draw_fresh(axis: Any, record: Record) -> None:
    for side, color in (("published", "C0"), ("ours", "C1")):
        for index, curve in enumerate(record[side]):
            axis.plot(
                range(1, len(curve) + 1), curve, color=color, linewidth=0.7, alpha=0.6, label="" if index else side
            )
    seeds = len(record["settings"]["seeds"])
    axis.set(title=f"{recipe(record)}: fresh values, {seeds} seeds each", ylabel="loss")
    axis.legend(loc="upper right", fontsize="small")
