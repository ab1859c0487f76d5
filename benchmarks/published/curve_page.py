"""The table and the plot of the loss curves, from the records that `benchmarks.published.curve` writes."""

import pathlib
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


def _same_table(records: Sequence[Record]) -> str:
    rows = [
        [
            *(recipe(record), str(record["settings"]["updates"]), str(record["settings"]["batch"])),
            f"{record['published'][0][0]:.4f} to {record['published'][0][-1]:.4f}",
            *(_small(record[name]) for name in ("largest_first", "largest", "at_last")),
            *(_small(record.get(name)) for name in ("largest_of_rounding_first", "largest_of_rounding")),
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
        ),
        *("by rounding alone, first 50", "all"),
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
    """Draws a column for each recipe: losses from the same weights with their deviation, and from fresh values."""
    import matplotlib  # only here: the tables need none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(recipe(record) for record in records))
    figure, axes = pyplot.subplots(2, len(names), figsize=(4.2 * len(names), 6), squeeze=False, layout="constrained")
    for record in records:
        column = names.index(recipe(record))
        if record["name"].startswith("curve_same_"):
            _draw_same(axes[0, column], record)
        else:
            _draw_fresh(axes[1, column], record)
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
