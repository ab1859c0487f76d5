"""All training-free methods of one CLIP on benchmarks, in one table: its results files, and what others report.

    python scripts/compare_methods.py --model clip-vitb16 --benchmark voc_21 ade20k_150
    python scripts/compare_methods.py --model clip-vitb16 --benchmark voc_21 --only-table

The benchmarks are prepared (`ahs-seg data prepare`). What has its results already is not computed again, so a stopped
run continues, and more methods or benchmarks are added to the same table. Reported scores are other people's, of
OpenAI's weights and the class files of their programs; ours compare with them where `--class-names` gives those files.
"""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # Python puts only the folder of a script there

from ahs_seg_jax.checkpoints.formats.stated import CLIP_ACTIVATIONS
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.cli import evaluate_model, options
from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.evaluation import expected
from ahs_seg_jax.models.training_free import METHODS

SCORE = expected.SCORE_OF_RULE["labelled_or_predicted"]  # as the methods' programs score
NOT_RUN = "not run"
SIZES = {(12, 768, 16): "vitb16", (24, 1024, 14): "vitl14"}  # blocks, width, patch of a tower whose scores are reported
ROWS = (*((method, evaluate_model.AS_PUBLISHED) for method in METHODS), ("naclip", "none"))  # method, refinement


class TableError(ValueError):
    """Results files that cannot be put in one table; the message names them."""


def run_all(args: argparse.Namespace) -> list[str]:
    """Scores every method on every benchmark; returns what could not be run, and why."""
    settings = EvalConfig(
        benchmarks=tuple(args.benchmark), class_names=args.class_names, quick=args.quick, limit=args.limit, pictures=0
    )
    failed = []
    read = functools.cache(lambda: load_pretrained(args.model, activation=args.activation))
    for method, refine in ROWS:
        if args.method and method not in args.method:
            continue
        chosen = evaluate_model.Chosen(args.model, method, refine, activation=args.activation)
        try:
            if code := evaluate_model.run(chosen, settings, args.root, str(args.workdir), read):
                sys.exit(code)  # stopped; the same command continues
        except ValueError as error:  # such as a method that has no constants for this tower
            failed.append(f"{method}: {options.cause(error)}")
    return failed


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The results files of training-free methods in a folder. Raises TableError if they are of several checkpoints."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "method" in content:
            found.append(content)
    weights = {content["checkpoint"]["sha256"] for content in found}
    if len(weights) > 1:
        raise TableError(f"{folder} holds results of {len(weights)} checkpoints; use a --workdir for each")
    return found


def size_of(results: Iterable[dict[str, Any]]) -> str:
    """The name of the tower's size in names of reported scores; "" for another size."""
    towers = [content["model"]["image"] for content in results]
    return SIZES.get((towers[0]["layers"], towers[0]["width"], towers[0]["patch_size"]), "") if towers else ""


def make_table(results: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> str:
    """The Markdown table: for each method a row of ours, and one of what is reported for this size, if it is."""
    columns = list(dict.fromkeys([*benchmarks, *(content["benchmark"] for content in results)]))
    cells = {(content["protocol"], content["benchmark"]): content for content in results}
    size, known = size_of(results), expected.table()["checkpoints"]
    lines = [f"| method | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    sources = []
    for method, refine in ROWS:
        protocol = method if refine == evaluate_model.AS_PUBLISHED else f"{method}_{refine}"
        own = [_cell(cells.get((protocol, name))) for name in columns]
        lines.append(f"| {protocol} | {' | '.join(own)} |")
        facts = known.get(f"{protocol}_{size}")
        if facts and set(columns) & set(facts["scores"]):
            reported = [str(facts["scores"].get(name, "")) for name in columns]
            lines.append(f"| {facts['title']}, reported | {' | '.join(reported)} |")
            sources.append(f"{facts['title']}: {facts['source']}.")
    return "\n".join([*lines, "", *_notes(results, sources)])


def _cell(content: dict[str, Any] | None) -> str:
    if content is None or content["scores"][SCORE] is None:
        return NOT_RUN
    return f"{content['scores'][SCORE]:.2f}{'*' if content['incomplete'] or content['data']['problems'] else ''}"


def _notes(results: Sequence[dict[str, Any]], sources: Sequence[str]) -> list[str]:
    notes = ["mIoU in percent over the classes that occur in the labels or in the predictions."]
    packaged = sorted({content["benchmark"] for content in results if content["class_names"] is None})
    if packaged:
        notes.append(f"With the packaged class names, not those of the methods' programs: {', '.join(packaged)}.")
    part = {reason for content in results for reason in (*content["incomplete"], *content["data"]["problems"])}
    notes += [f"\\* {reason}." for reason in sorted(part)]
    if sources:
        notes.append(f"Reported by others and not run here: {' '.join(sources)}")
    return notes


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=options.CHECKPOINTS)
    parser.add_argument("--activation", choices=CLIP_ACTIVATIONS, help="of a CLIP, where its file does not state it")
    parser.add_argument("--benchmark", nargs="+", action="extend", required=True, choices=list(BENCHMARKS))
    parser.add_argument("--method", nargs="+", action="extend", choices=list(METHODS), help="by default all")
    parser.add_argument("--root", default="", help="folder of the prepared data; else $AHS_SEG_DATA")
    parser.add_argument("--workdir", type=pathlib.Path, help="folder that gets results/; by default runs/<model>")
    parser.add_argument("--class-names", default="", help="a file of class names, or a folder of <benchmark>.txt")
    parser.add_argument("--quick", action="store_true", help="a fixed subset of 100 images")
    parser.add_argument("--limit", type=int, default=0, help="the first images of each benchmark")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    parser.add_argument("--output", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args(arguments)
    args.workdir = args.workdir or pathlib.Path("runs", evaluate_model.short_name(args.model))
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, and prints the table; exit code 1 if a method could not run, 2 for a mistake."""
    args = parse(arguments)
    failed = [] if args.only_table else options.mistakes(lambda: run_all(args))
    table = options.mistakes(lambda: make_table(read_results(args.workdir / "results"), args.benchmark))
    print(table)
    if args.output:
        args.output.write_text(f"{table}\n", encoding="utf-8")
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
