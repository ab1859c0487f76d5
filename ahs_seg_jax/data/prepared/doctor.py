"""Examines benchmarks for what silently ruins scores: the work of `ahs-seg data doctor`.

Numbers of images, files that could not be read, labels shifted by one or never mapped, implausible statistics. Reads
every label of the prepared data again, and draws eight examples to look at. Evaluation refuses what it refuses.
"""

import concurrent.futures
import dataclasses
import pathlib

import numpy as np
from PIL import Image

from ahs_seg_jax import threads
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS, benchmark
from ahs_seg_jax.data.prepared import layout, preparation
from ahs_seg_jax.data.prepared.contact_sheet import contact_sheet
from ahs_seg_jax.data.prepared.diagnosis import Findings, Statistics, diagnose
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.progress import Progress
from ahs_seg_jax.storage import writing

EXAMPLES = 8  # of a contact sheet


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor found, by split: `problems` forbid trusting a score, `warnings` ask for a look."""

    name: str
    splits: dict[str, Findings]

    @property
    def problems(self) -> tuple[str, ...]:
        """Of all splits."""
        return tuple(f"{split}: {text}" for split, found in self.splits.items() for text in found.problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all splits."""
        return tuple(f"{split}: {text}" for split, found in self.splits.items() for text in found.warnings)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.name}: {'refused' if self.problems else 'healthy'}"]
        lines += [f"  problem: {text}" for text in self.problems] + [f"  warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def examine(data: Source | pathlib.Path) -> Report:
    """Examines a source, or a prepared folder (`layout.prepared_folder`) with all its splits.

    The statistics of prepared data are those that were counted while preparing; other sources are read whole. A source
    that is no known benchmark has no expected statistics: only its files are judged.
    Raises ValueError for a folder that holds no finished preparation.
    """
    if isinstance(data, PreparedSource):
        return Report(data.benchmark_name, {data.split: diagnose_prepared(data.benchmark_name, data.facts)})
    if not isinstance(data, pathlib.Path):
        return _examine_source(data)
    facts = layout.read_facts(data)
    if "name" not in facts:
        raise ValueError(f"{data} holds no finished preparation; run ahs-seg data prepare")
    splits = facts["splits"].items()
    return Report(facts["name"], {split: diagnose_prepared(facts["name"], found) for split, found in splits})


def examine_downloads(root: pathlib.Path, name: str) -> Report:
    """Counts and pairs the files of a benchmark that is not prepared yet. Raises DataAbsent if there are none."""
    known = benchmark(name)
    found = {}
    for split, listing in preparation.listings(known, root, print).items():
        todo = f"only files were counted: {layout.command(name, root)} reads them"
        found[split] = Findings(tuple(preparation.count_problems(known, split, listing)), (todo,))
    return Report(name, found)


def diagnose_prepared(name: str, facts: dict) -> Findings:
    """Findings of a split's facts (`preparation.py`)."""
    found = diagnose(benchmark(name), Statistics.of_facts(facts))
    problems = [*_completeness(facts), *found.problems]
    return Findings(tuple(problems), found.warnings)


def _completeness(facts: dict) -> list[str]:
    problems = []
    if facts["found"] not in facts["expected"]:
        published = " or ".join(f"{count:,}" for count in facts["expected"])
        problems.append(f"{facts['found']:,} images with labels were found, the published set has {published}")
        problems += facts["listing_problems"]
    if facts["limit"]:
        problems.append(f"limited to the first {facts['limit']:,} of {facts['found']:,} images by --limit")
    if facts["failed_count"]:
        causes = preparation.listed(facts["failed"])
        problems.append(f"{facts['failed_count']} images could not be read: {causes}; restore them and prepare again")
    return problems


def _examine_source(source: Source) -> Report:
    fingerprint = source.fingerprint()
    name, split = str(fingerprint.get("source", "")), str(fingerprint.get("split", "all"))
    known = BENCHMARKS.get(name)
    counted, problems = count_labels(source, known.classes if known else len(source.vocabulary))
    if known is None:
        return Report(name, {split: Findings(tuple(problems), ())})
    found = diagnose(known, counted)
    published = known.counts.get(split.removesuffix("2017"), ())
    if published and len(source) not in published:
        problems.append(f"{len(source):,} images with labels were found, the published set has {published[0]:,}")
    return Report(name, {split: Findings((*problems, *found.problems), found.warnings)})


def count_labels(source: Source, classes: int) -> tuple[Statistics, list[str]]:
    """Reads every example, in threads: pixels of each class, and what could not be read. Long work reports itself."""

    def count(index: int) -> np.ndarray | str:
        try:
            label = source[index]["label"]
        except CorruptExample as error:
            return str(error)
        return np.bincount(label.ravel() + 1, minlength=classes + 1)  # the first place counts unlabelled pixels

    total, problems, beyond, read = np.zeros(classes + 1, np.int64), [], 0, 0
    progress = Progress(len(source), print, "read")
    with concurrent.futures.ThreadPoolExecutor(threads.cores()) as pool:
        for found in progress.each(pool.map(count, range(len(source)))):
            if isinstance(found, str):
                problems.append(found)
            else:
                beyond += len(found) > classes + 1
                total += found[: classes + 1]
                read += 1
    if beyond:
        cause = "they never were mapped to class indices" if total[1] else "they are shifted by one (+1)"
        problems.append(f"{beyond} labels hold values of {classes} and more, but there are {classes} classes: {cause}")
    return Statistics(read, int(total.sum()), total[1:], {}, ()), problems


def record(root: pathlib.Path, name: str, output: pathlib.Path | None = None, reread: bool = False) -> Report:
    """Examines prepared data, and stores the verdict and the contact sheets beside them (sheets in `output` if given).

    With `reread` every example is decoded again and counted against the facts. Raises ValueError if there are none.
    """
    folder = layout.prepared_folder(root, name)
    splits = layout.read_facts(folder).get("splits", {})
    sources = [PreparedSource(root, name, split) for split in splits or benchmark(name).counts]
    found = {}
    for source in sources:
        findings = diagnose_prepared(name, source.facts)
        if reread:
            counted, problems = count_labels(source, benchmark(name).classes)
            if counted.images == len(source) and counted.classes.tolist() != source.facts["classes"]:
                problems.append("the labels are not those that were prepared; prepare again with --again")
            findings = Findings((*findings.problems, *problems), findings.warnings)
        found[source.split] = findings
        sheet = (output or folder) / f"contact_sheet-{source.split}.png"
        sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(source, EXAMPLES)).save(sheet)
    verdict = {"splits": {split: dataclasses.asdict(findings) for split, findings in found.items()}}
    writing.write_json(folder / layout.VERDICT, verdict, sort_keys=True)
    return Report(name, found)
