"""Mistakes that label statistics give away: labels shifted by one, never mapped, mapped twice, or of another data set.

The share of each class is published for ADE20K's 150 classes only. Of every data set the commonest classes are known,
the values that it never uses, and a plausible share of unlabelled pixels: that is what the mistakes break.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, some

ENOUGH_IMAGES = 200  # for the commonest classes to be the commonest
FAR_MORE = 1.5  # times the pixels, that the commonest classes cover in their right places rather than next to them
APART = 0.12  # share of the pixels in other classes than the published histogram says: worth a look, or a shift
FAR_APART = 0.3  # no part of the data set differs so much from the whole
PRESENT_SHARE = 0.5  # of all classes, that occur in a whole published set
OTHER = "the labels are of another data set, or were mapped before"


@dataclasses.dataclass(frozen=True)
class Findings:
    """`problems` forbid trusting a score, `warnings` ask for a look. One sentence each."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of the labels of a split: `classes` int64 `[t]` pixels of each class, `values` pixels of each value as downloaded
    (empty if unknown), `strange` examples with values that the data set never uses."""

    images: int
    pixels: int
    classes: np.ndarray
    values: Mapping[int, int]
    strange: Sequence[Mapping[str, Any]]
    strange_count: int = 0

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Statistics":
        """Those that were counted while preparing."""
        return cls(
            images=facts["images"],
            pixels=facts["pixels"],
            classes=np.array(facts["classes"], np.int64),
            values={int(value): count for value, count in facts["values"].items()},
            strange=facts["strange"],
            strange_count=facts["strange_count"],
        )


def diagnose(benchmark: Benchmark, found: Statistics) -> Findings:
    """What the statistics of a split say about its labels."""
    problems, warnings = _values(benchmark, found), []
    if not found.classes.sum():
        return Findings((*problems, "no pixel has a class: these are not the labels of this data set"), ())
    if found.images < ENOUGH_IMAGES:
        warnings.append(f"{found.images} images are too few to judge how often classes occur")
        return Findings(tuple(problems), tuple(warnings))
    if shift := _shift(benchmark, found):
        problems.append(
            f"the labels are shifted by one ({shift:+d}): only so are the commonest classes those that should be "
            f"({', '.join(benchmark.frequent)}); they were mapped before: prepare from the original downloads"
        )
    elif lost := [name for name, count in _frequent(benchmark, found.classes, 0) if not count]:
        problems.append(f"{', '.join(lost)} should be among the commonest classes and never occur: {OTHER}")
    elif benchmark.shares is not None and (apart := misplaced(benchmark.shares(), found)) > APART:
        text = f"{apart:.0%} of the pixels lie in other classes than in the published histogram"
        problems += [f"{text}: {OTHER}"] if apart > FAR_APART else []
        warnings += [text] if apart <= FAR_APART else []
    low, high = benchmark.ignored_share
    ignored = 1 - found.classes.sum() / found.pixels
    if not low <= ignored <= high:
        problems.append(
            f"{ignored:.1%} of the pixels have no class, where {low:.1%} to {high:.1%} are plausible: {OTHER}"
        )
    present = int((found.classes > 0).sum())
    if present < PRESENT_SHARE * len(found.classes):
        warnings.append(f"only {present} of {len(found.classes)} classes occur")
    return Findings(tuple(problems), tuple(warnings))


def _values(benchmark: Benchmark, found: Statistics) -> list[str]:
    """What the values of the labels as downloaded say; they are judged however few there are."""
    if not found.strange_count:
        return []
    strange = sorted({value for example in found.strange for value in example["values"]})
    examples = some([example["name"] for example in found.strange])
    cause = _cause(benchmark, set(found.values), set(strange))
    return [
        f"{found.strange_count} labels hold values that the data set never uses ({some(strange)}), as {examples}{cause}"
    ]


def _cause(benchmark: Benchmark, present: set[int], strange: set[int]) -> str:
    """Why there may be strange values, in words."""
    usual = set(np.flatnonzero(benchmark.table >= 0).tolist()) | set(benchmark.unlabelled or ())
    labels = present - {255, 65535}
    for offset in (1, -1):
        if {value - offset for value in labels} <= usual:
            return f": they are shifted by one ({offset:+d}); prepare from the original downloads"
    if labels and max(labels) < benchmark.classes:
        return ": they were mapped to class indices before; prepare from the original downloads"
    if max(strange - {255, 65535}, default=0) >= len(benchmark.table):
        return ": they never were mapped to the values of this data set (colours turned to grey look so)"
    return f": {OTHER}"


def _shift(benchmark: Benchmark, found: Statistics) -> int:
    """+1 or -1 if the classes that should be the commonest are so only under the next or the previous index, else 0.

    Either they cover far more pixels there, or one of them never occurs here and all of them do there. Where the share
    of every class is published, the shares decide.
    """
    if benchmark.shares is not None:
        return _shift_by_shares(benchmark.shares(), found)
    classes = found.classes
    here = [count for _, count in _frequent(benchmark, classes, 0)]
    shifted = {offset: [count for _, count in _frequent(benchmark, classes, offset)] for offset in (1, -1)}
    offset, there = max(shifted.items(), key=lambda item: sum(item[1]))
    more = sum(there) > FAR_MORE * sum(here)
    return offset if more or (not all(here) and all(there) and sum(there) > sum(here)) else 0


def misplaced(shares: np.ndarray, found: Statistics) -> float:
    """The share of all pixels, 0..1, that lie in other classes (or none) than published `shares` of all pixels say."""
    measured = found.classes / found.pixels
    return float(np.abs(measured - shares).sum() + abs(measured.sum() - shares.sum())) / 2


def _shift_by_shares(shares: np.ndarray, found: Statistics) -> int:
    """+1 or -1 if the measured shares are the published ones of the previous or the next class, else 0."""
    measured = found.classes / found.pixels
    apart = {
        0: float(np.abs(measured - shares).sum()),
        1: float(np.abs(measured[1:] - shares[:-1]).sum()),
        -1: float(np.abs(measured[:-1] - shares[1:]).sum()),
    }
    nearest = min(apart, key=lambda offset: apart[offset])
    return nearest if misplaced(shares, found) > APART and apart[nearest] < apart[0] / 2 else 0


def _frequent(benchmark: Benchmark, classes: np.ndarray, offset: int) -> list[tuple[str, int]]:
    """The classes that should be the commonest, and how many pixels lie `offset` places after their index."""
    names = [name.split(", ")[0].strip() for name in benchmark.scored_names]
    padded = np.pad(classes, 1)
    return [(name, int(padded[names.index(name) + offset + 1])) for name in benchmark.frequent]
