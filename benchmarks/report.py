"""Tables and plots from result files, put between the markers of the pages in docs/ and of the README.

    python -m benchmarks.report                            all files of benchmarks/results
    python -m benchmarks.report --check                    changes nothing; fails if a page differs from the files
    python -m benchmarks.report mine.json --page mine.md   other files; mine.md has the markers of docs/performance.md

Every figure of a page between its markers comes from a file; what no file holds is not shown.
"""

import argparse
import math
import pathlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import results_file
from benchmarks.published import curve_page, free_page
from benchmarks.results_file import marked, table
from benchmarks.tpu import report as tpu_report

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE, STEPS_PAGE, README = ROOT / "docs" / "performance.md", ROOT / "docs" / "what_was_tried.md", ROOT / "README.md"
CURVES_PAGE, FREE_PAGE = ROOT / "docs" / "curves.md", ROOT / "docs" / "training_free_programs.md"
RESULTS = ROOT / "benchmarks" / "results"
UPPER_POINTS = 3  # the largest amounts of a series, where fixed costs matter least

Record = Mapping[str, Any]
Block = dict[str, str]  # marker -> Markdown


def group(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records by model size, dtype and machine, in the order in which they come."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if "error" in record or "settings" not in record or "hardware" not in record:
            continue
        found[f"{record['settings'].get('size', 'vitb16')}, {record['settings']['dtype']}, {machine(record)}"].append(
            record
        )
    return dict(found)


SHOWN = ("size", "dtype", "batch", "classes", "train_classes", "names", "memory")  # settings that a row tells


def newest(records: Iterable[Record]) -> list[Record]:
    """Of the records of one work on one machine, the last: files come by their date."""
    found: dict[str, Record] = {}
    for record in records:
        told = record["key"]
        if "settings" in record and "hardware" in record:
            settings = [record["settings"].get(name) for name in SHOWN]
            told = repr((record["name"], record.get("amount"), settings, machine(record)))
        found[told] = record
    return list(found.values())


def machine(record: Record) -> str:
    """The hardware of a record in a few words."""
    hardware = record["hardware"]
    if hardware["platform"] == "cpu":
        return f"{hardware['cores']} cores of {hardware['processor']}"
    return f"{hardware['devices']} x {hardware['device']}"


def main_table(records: Sequence[Record]) -> str:
    """One line for each benchmark that does not belong to a series."""
    header = (
        *("work", "time", "spread", "throughput", "GFLOP", "GFLOP/s", "of ceiling"),
        *("roofline", "of roofline", "memory", "compiles"),
    )
    return table(header, [_row(record) for record in records if not record["series"]])


def _row(record: Record) -> list[str]:
    seconds = record["seconds"]
    low, high = seconds["quartiles"]
    cells = [
        record["title"] + _amount(record),
        duration(seconds["median"]),
        f"{50 * (high - low) / seconds['median']:.0f} %",
        f"{number(record['throughput'])} {record['unit']}/s",
    ]
    if record.get("flops"):
        cells += [
            number(record["flops"] / 1e9),
            number(record["flops_per_second"] / 1e9),
            f"{100 * record['ceiling_share']:.0f} %",
            f"{duration(record['roofline']['seconds'])} ({record['roofline']['bound_by']})",
            f"{100 * record['roofline']['share']:.0f} %",
        ]
    else:
        cells += [""] * 5
    peak = record["peak_memory"].get("device_bytes") or record["peak_memory"]["process_bytes"]
    compiles = record.get("compiles")
    return [*cells, f"{peak / 1e9:.2f} GB", f"{compiles['before']} + {compiles['timed']}" if compiles else ""]


def _amount(record: Record) -> str:
    """The amount of work in brackets, or nothing where the title has it."""
    settings = record["settings"]
    if record["name"].startswith(("train", "part")):
        return f" (batch {settings['batch']}, {settings['train_classes']} classes)"
    if "model_share" in record:
        share = f"{100 * record['model_share']:.0f} % of the model's own rate"
        busy = record.get("processor_seconds")  # records of earlier days lack it
        share += f", {duration(busy)} of a processor each" if busy else ""
        return f" ({record['items']:.0f} {record['pictures']}, {share})"
    if record["name"] in ("data_pipeline", "checkpoint_save", "evaluation"):
        return f" ({record['items']:.0f} {record['unit']})"
    return "" if "classes" in record["title"] else f" ({settings['classes']} classes)"


def number(value: float) -> str:
    """A number with three digits, or with all digits before the point if there are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in seconds or milliseconds, with the unit."""
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def series(records: Sequence[Record]) -> dict[str, list[tuple[float, float, float]]]:
    """Series -> its points (amount, seconds, peak bytes), by ascending amount."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for record in records:
        if record.get("series"):
            peak = record["peak_memory"].get("device_bytes") or record["peak_memory"]["process_bytes"]
            found[record["series"]].append((record["amount"], record["seconds"]["median"], peak))
    return {name: sorted(points) for name, points in found.items()}


def exponent(amounts: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of the power law through measured points, by least squares of the logarithms: 1 means proportional.

    Raises ValueError for fewer than two different amounts, or for amounts and values that are not positive.
    """
    if len(set(amounts)) < 2 or len(amounts) != len(values):
        raise ValueError(f"a fit needs two different amounts and as many values; got {list(amounts)}, {list(values)}")
    if min(*amounts, *values) <= 0:
        raise ValueError("a power law needs positive amounts and values")
    x, y = [math.log(amount) for amount in amounts], [math.log(value) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - middle_x) ** 2 for a in x)


def growth_table(records: Sequence[Record]) -> str:
    """How time and memory grow: the exponents over all points of a series, and over its largest."""
    rows = []
    for name, points in series(records).items():
        if len(points) < 2:
            continue
        amounts, seconds, peaks = zip(*points, strict=True)
        upper = slice(-UPPER_POINTS, None)
        rows.append(
            [
                name,
                f"{amounts[0]:g} to {amounts[-1]:g}",
                f"{duration(seconds[0])} to {duration(seconds[-1])}",
                f"{exponent(amounts, seconds):.2f}",
                f"{exponent(amounts[upper], seconds[upper]):.2f}",
                f"{peaks[0] / 1e9:.2f} to {peaks[-1] / 1e9:.2f} GB",
                f"{exponent(amounts[upper], peaks[upper]):.2f}",
            ]
        )
    header = ("what grows", "amounts", "time", "exponent", f"of the {UPPER_POINTS} largest", "memory", "exponent")
    return table(header, rows)


def start_table(records: Sequence[Record]) -> str:
    """How long a process needs until its first picture, with and without compiled programs on disk."""
    rows = []
    for record in records:
        if "warm_share" not in record:
            continue
        warm = sorted(record["warm"], key=lambda run: run["process"])[len(record["warm"]) // 2]
        for label, run in (("first process of a machine", record["cold"]), ("second", warm)):
            stages = ("process", "imports", "weights", "words", "first", "second", "beyond")
            rows.append([label, *(duration(run[stage]) for stage in stages)])
        share = record["warm_share"]
        rows.append(["share", f"{share['process']:.2f}", "", "", "", f"{share['first_result']:.2f}", "", ""])
    header = (
        *("process", "in all", "imports", "weights", "words"),
        *("first picture", "second picture", "beyond one picture"),
    )
    return table(header, rows) if rows else ""


PEERS = {"compiled": "torch.compile", "onnxruntime": "ONNX Runtime"}  # forms of the published model


def side_table(records: Iterable[Record]) -> str:
    """Our program beside the published one, and beside each other form of it that took part."""
    rows = []
    for record in records:
        work = f"{record['name'].removeprefix('side_by_side_')} ({record['settings']['names']} classes)"
        work += ", huge pages for all" if "memory" in record["settings"] else ""
        share = f"{record['flops_share']:.2f}" if "flops_share" in record else ""
        rows.append([work, *_beside(record["published"], record["ours"], record), share])
        for name, peer in record.get("peers", {}).items():
            rows.append([f"{work}, published under {PEERS[name]}", *_beside(peer, record["ours"], peer), ""])
    header = (
        *("work", "published", "ours", "times faster", "times less processor time"),
        *("memory, published", "ours", "share", "share of matrix work"),
    )
    return table(header, rows)


def _beside(theirs: Record, ours: Record, ratios: Record) -> list[str]:
    return [
        duration(theirs["median"]),
        duration(ours["median"]),
        f"{ratios['times_faster']:.2f}",
        f"{ratios['times_less_processor_time']:.2f}",
        f"{theirs['peak_bytes'] / 1e9:.1f} GB",
        f"{ours['peak_bytes'] / 1e9:.1f} GB",
        f"{ratios['memory_share']:.2f}",
    ]


def step_table(records: Iterable[Record]) -> str:
    """The steps towards more speed, what was expected of each and what it did, measured by hand as its record says."""
    rows = [
        [
            *(record["title"], record["predicted"], record["of"], number(record["before"]), number(record["after"])),
            *(record["unit"], "" if record["kept"] else "not kept"),
        ]
        for record in records
    ]
    return table(("step", "expected", "measured on", "before", "after", "unit", "note"), rows) if rows else ""


def blocks(records: Sequence[Record]) -> Block:
    """The Markdown of every marker of the pages."""
    steps = step_table(record for record in records if record["name"].startswith("step_"))
    tpu = tpu_report.block([record for record in records if record["name"] == "tpu"])
    curves = curve_page.block(record for record in records if record["name"].startswith("curve_"))
    free = free_page.block(record for record in records if record["name"].startswith("free_"))
    apart = ("step_", "tpu", "curve_", "free_", "goldens")
    records = newest(record for record in records if not record["name"].startswith(apart))
    sides = [record for record in records if record["name"].startswith("side_by_side")]
    groups = group(record for record in records if not record["name"].startswith("side_by_side"))
    parts, scaling = [], []
    for title, members in groups.items():
        pieces = [main_table(members), start_table(members)]
        parts.append(f"### {title}\n\n" + "\n\n".join(piece for piece in pieces if piece))
        if any(len(points) > 1 for points in series(members).values()):
            scaling.append(f"### {title}\n\n{growth_table(members)}")
    beside = [f"### {title}\n\n{side_table(members)}" for title, members in group(sides).items()]
    none = "Not run."
    return {
        "benchmarks": "\n\n".join(parts) or none,
        "scaling": "\n\n".join(scaling) or none,
        "side by side": "\n\n".join(beside) or none,
        "steps": steps or none,
        "tpu": tpu or none,
        "curves": curves or none,
        "training-free": free or none,
    }


def plot(records: Sequence[Record], path: pathlib.Path) -> bool:
    """Draws time and memory over what grows, a column for each series; returns False if there is nothing to draw."""
    import matplotlib  # only here: the tables need none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = newest(record for record in records if not record["name"].startswith(("curve_", "free_", "goldens")))
    groups = {title: series(members) for title, members in group(records).items()}
    names = sorted({name for found in groups.values() for name, points in found.items() if len(points) > 1})
    if not names:
        return False
    figure, axes = pyplot.subplots(2, len(names), figsize=(4 * len(names), 6), squeeze=False, layout="constrained")
    lines = {}
    for column, name in enumerate(names):
        for color, (title, found) in enumerate(groups.items()):
            points = found.get(name, [])
            if len(points) < 2:
                continue
            amounts, seconds, peaks = zip(*points, strict=True)
            lines[title] = axes[0, column].plot(amounts, seconds, "o-", color=f"C{color}")[0]
            axes[1, column].plot(amounts, [peak / 1e9 for peak in peaks], "o-", color=f"C{color}")
        for row, label in enumerate(("seconds", "peak memory, GB")):
            axes[row, column].set(xscale="log", yscale="log" if row == 0 else "linear", xlabel=name, ylabel=label)
            axes[row, column].xaxis.set_major_formatter("{x:g}")
            axes[row, column].xaxis.set_minor_formatter("")
            axes[row, column].grid(alpha=0.3)
        axes[0, column].yaxis.set_major_formatter("{x:g}")
        low, high = axes[0, column].get_ylim()
        axes[0, column].yaxis.set_minor_formatter("{x:g}" if high < 30 * low else "")  # more would overlap
        axes[1, column].set_ylim(bottom=0)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def pages(found: Block, page: pathlib.Path) -> dict[pathlib.Path, str]:
    """The new texts of all pages; of `page` alone if it is not docs/performance.md.

    Raises ValueError if a page lacks a marker, FileNotFoundError if there is no such page.
    """
    apart = {STEPS_PAGE: "steps", CURVES_PAGE: "curves", FREE_PAGE: "training-free"}
    texts = {page: marked(page.read_text(), {name: text for name, text in found.items() if name not in apart.values()})}
    if page == PAGE:
        for other, name in apart.items():
            texts[other] = marked(other.read_text(), {name: found[name]})
        texts[README] = marked(README.read_text(), {"speed": found["side by side"]})
    return texts


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="*", type=pathlib.Path, help="result files; by default all of benchmarks/results"
    )
    parser.add_argument("--page", type=pathlib.Path, default=PAGE)
    parser.add_argument("--image", type=pathlib.Path, help="by default images/performance.png beside the page")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page differs from the files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the files; writes the pages and their picture, or checks the pages. Returns the exit code."""
    options = parse(argv)
    files = options.files or sorted(RESULTS.glob("*.json"))
    try:
        records = [record for file in files for record in results_file.read(file)]
        texts = pages(blocks(records), options.page)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    code = results_file.write_or_check(texts, options.check, "run python -m benchmarks.report")
    if not options.check:
        image = options.image or options.page.parent / "images" / "performance.png"
        drawn = plot(records, image)
        print(f"{options.page}: {len(records)} records of {len(files)} file(s)" + (f", {image}" if drawn else ""))
    return code


if __name__ == "__main__":
    sys.exit(main())
