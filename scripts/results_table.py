"""The README's tables of results, made from the results files in `results/`: a number without a file cannot be there.

    python scripts/results_table.py           # writes the tables between the README's markers
    python scripts/results_table.py --check   # fails if the README says anything else than the files

A run is a folder of results files as `--mode=eval` writes them, such as `results/tiny/scenes_val.json`; its name is its
row. `results/table.json` may give the order: `{"rows": {"tiny": "what readers see"}, "columns": ["scenes"]}`. A row
or column without a file says "not run".
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

START, END = "<!-- results -->", "<!-- /results -->"
NOT_RUN = "not run"
PROTOCOLS = {
    "cat_seg": "Protocol `cat_seg` (windows and a global view, as in published scores), mIoU in percent:",
    "whole": "Protocol `whole` (one view), mIoU in percent:",
}
COLUMNS = (
    *("scenes", "coco_stuff", "ade20k_847", "pascal_context_459", "ade20k_150"),
    *("pascal_context_59", "voc_20", "voc_20b"),
)

Cells = dict[tuple[str, str, str], str]  # (protocol's heading, row, column) -> text


class TableError(Exception):
    """Results files that cannot be put in a table, or a README that says something else; the message lists all."""


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The contents of all results files, with the name of their run. Raises TableError for files that are none."""
    found, problems = [], []
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            row = {key: content[key] for key in ("benchmark", "split", "protocol", "incomplete")}
            row |= {"problems": content["data"]["problems"], "weights": content["checkpoint"]["sha256"]}
            row |= {"mIoU": content["scores"]["mIoU"], "unseen": content["scores"]["mIoU_unseen"]}
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path} is no results file of --mode=eval ({error!r})")
            continue
        if row["problems"] or row["mIoU"] is None:
            problems.append(f"{path}: scores of bad data, or no score, belong in no table; remove the file")
        found.append(row | {"run": path.parent.name, "path": str(path)})
    if problems:
        raise TableError("\n".join(problems))
    _check_alike(found)
    return found


def _check_alike(rows: Sequence[dict[str, Any]]) -> None:
    """Each row is of one set of weights, each cell of one file."""
    weights: dict[str, str] = {}
    cells: dict[tuple[str, ...], str] = {}
    problems = []
    for row in rows:
        if weights.setdefault(row["run"], row["weights"]) != row["weights"]:
            problems.append(f"{row['path']} is of other weights than the other files of {row['run']}; use two folders")
        key = (row["run"], row["protocol"], row["benchmark"])
        if cells.setdefault(key, row["path"]) != row["path"]:
            problems.append(f"{row['path']} and {cells[key]} are for the same cell; keep one of them")
    if problems:
        raise TableError("\n".join(problems))


def _cell(row: dict[str, Any]) -> str:
    unseen = "" if row["unseen"] is None or row["unseen"] == row["mIoU"] else f" (unseen {row['unseen']:.2f})"
    return f"{row['mIoU']:.2f}{'*' if row['incomplete'] else ''}{unseen}"


def make_tables(folder: pathlib.Path) -> str:
    """The Markdown between the markers."""
    results = read_results(folder)
    layout = folder / "table.json"
    wanted = json.loads(layout.read_text(encoding="utf-8")) if layout.is_file() else {}
    runs = list(dict.fromkeys([*wanted.get("rows", {}), *(row["run"] for row in results)]))
    parts = []
    for protocol, heading in PROTOCOLS.items():
        own = {(row["run"], row["benchmark"]): row for row in results if row["protocol"] == protocol}
        if not own:
            continue
        order = [*wanted.get("columns", []), *COLUMNS, *sorted(benchmark for _, benchmark in own)]
        asked = {*wanted.get("columns", []), *(benchmark for _, benchmark in own)}
        columns = [name for name in dict.fromkeys(order) if name in asked]
        lines = [heading, "", f"| run | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for run in runs:
            cells = [_cell(own[run, name]) if (run, name) in own else NOT_RUN for name in columns]
            lines.append(f"| {wanted.get('rows', {}).get(run, run)} | {' | '.join(cells)} |")
        notes = [
            f"\\* {row['benchmark']}, {row['run']}: {'; '.join(row['incomplete'])}."
            for row in own.values()
            if row["incomplete"]
        ]
        parts.append("\n".join([*lines, *(["", *notes] if notes else [])]))
    return "\n\n".join(parts) or "Nothing has been run yet."


def parse_cells(tables: str) -> Cells:
    """The cells of Markdown tables, by the line that stands above each table, row and column."""
    cells: Cells = {}
    heading: str = ""
    columns: list[str] = []
    for line in tables.splitlines():
        parts = [part.strip() for part in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            heading, columns = (line or heading), []
        elif not columns:
            columns = parts[1:]
        elif set(parts[0]) != {"-"}:
            cells |= {(heading, parts[0], name): cell for name, cell in zip(columns, parts[1:], strict=False)}
    return cells


def differences(readme: str, made: str) -> list[str]:
    """What the README's tables say and the files do not, and the other way round."""
    ours, theirs = parse_cells(readme), parse_cells(made)
    found = []
    for key in dict.fromkeys([*ours, *theirs]):
        said, stored = ours.get(key), theirs.get(key)
        where = f"{key[1]}, {key[2]} ({key[0].split(' (')[0]})"
        if said != stored and said not in (None, NOT_RUN) and stored in (None, NOT_RUN):
            found.append(f"{where}: the README says {said}, but no file holds it")
        elif said != stored:
            found.append(f"{where}: the README says {said or 'nothing'}, the files say {stored or 'nothing'}")
    return found


def split_readme(text: str) -> tuple[str, str, str]:
    """The README before, between and after the markers. Raises TableError unless each is there once, in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise TableError(f"the README must hold {START} and, after it, {END}, once each")
    before, rest = text.split(START)
    between, after = rest.split(END)
    return before, between.strip("\n"), after


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the README differs")
    parser.add_argument("--readme", type=pathlib.Path, default=root / "README.md")
    parser.add_argument("--results", type=pathlib.Path, default=root / "results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes or checks; exit code 1 if the check fails, 2 if there is nothing to work with."""
    args = parse(arguments)
    try:
        made = make_tables(args.results)
        text = args.readme.read_text(encoding="utf-8")
        before, between, after = split_readme(text)
    except (TableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if args.check:
        if between != made:
            found = differences(between, made) or ["the text around the tables differs"]
            remedy = "put the results files in place, or run python scripts/results_table.py"
            print("\n".join([f"error: {args.readme} and {args.results} differ:", *found, remedy]), file=sys.stderr)
            sys.exit(1)
        return
    args.readme.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
