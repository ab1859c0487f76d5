"""Scores that known checkpoints should reach, and the verdict on an evaluation: matches, differs, or unknown.

The numbers, with their sources, are in `expected_scores.json`.
"""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.checkpoints import sources
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.evaluation import metrics

# The name of the score by each rule about absent classes, the default first.
SCORE_OF_RULE = {metrics.LABELLED: "mIoU", metrics.LABELLED_OR_PREDICTED: "mIoU_labelled_or_predicted"}
# What stands behind a number.
KINDS = {
    "published": "published",
    "measured": "measured by its authors",
    "claimed": "claimed by its authors, not reproduced by anybody",
    "reported": "as reported by others, not run here",
}


@functools.cache
def table() -> dict[str, Any]:
    """The packaged file: `checkpoints`, name -> title, source, kind, sha256 of known weights, and `scores`.

    `scores` is benchmark -> mIoU in percent. For the whole checkpoint hold `protocol`, `tolerance` (points of mIoU; the
    table's `tolerance_covers` says what for) and `absent_classes`: the rule of the mean, of `metrics.ABSENT_RULES`, or
    "unknown" where the source does not say which it is. `queries`, if there are any: benchmark -> names and synonyms in
    the class file that was scored with.
    """
    text = importlib.resources.files("ahs_seg_jax.evaluation").joinpath("expected_scores.json").read_text("utf-8")
    return json.loads(text)


def check_name(name: str) -> None:
    """Raises ValueError if `name` is not empty and names no checkpoint of the table."""
    known = table()["checkpoints"]
    if name and name not in known:
        raise ValueError(f"eval.expected is {name!r}; choose one of {', '.join(known)}, or leave it empty")


def find(sha256: str) -> str:
    """The name of the checkpoint whose parameters or file have this hash; "" if it is not known."""
    return next((name for name, facts in table()["checkpoints"].items() if sha256 in facts["sha256"]), "")


def compare(benchmark: str, report: Mapping[str, Any], scores: Mapping[str, float], name: str = "") -> dict[str, Any]:
    """The verdict on an evaluation's scores by name (percent), JSON-ready: `verdict`, what it rests on, and a `text`.

    `verdict` is "matches", "differs" or "unknown". `name` is the checkpoint it should be; without one, the model
    zoo's word for its own models is taken, and the weights' hash is looked up. Unknown are other checkpoints,
    benchmarks and protocols, and scores of a part of the images. Where it is not known by which rule about absent
    classes a score was published, either may match, the default first. Raises ValueError for a name that is not in
    the table.
    """
    check_name(name)
    name = name or _of_the_zoo(report["checkpoint"].get("path", "")) or find(report["checkpoint"]["sha256"])
    if not name:
        return _unknown("no score is known for these weights; eval.expected names what they should be")
    facts = table()["checkpoints"][name]
    expected = facts["scores"].get(_published_as(benchmark))
    kind = KINDS[facts["kind"]]
    about = {"checkpoint": name, "kind": facts["kind"], "source": facts["source"], "mIoU": expected}
    if expected is None:
        return about | _unknown(f"none is known for {facts['title']} on {benchmark}")
    said = f"{expected} ({facts['title']}, {kind})"
    if report["protocol"] != facts["protocol"]:
        return about | _unknown(f"{said} is of protocol {facts['protocol']}, this one of {report['protocol']}")
    if report["incomplete"] or report["data"]["problems"]:
        return about | _unknown(f"{said} is of the whole benchmark; this score is not")
    if (wanted := facts.get("queries", {}).get(benchmark)) and (other := _other_names(report, wanted)):
        return about | _unknown(f"{said} is of {other}")
    names = SCORE_OF_RULE.values() if facts["absent_classes"] == "unknown" else [SCORE_OF_RULE[facts["absent_classes"]]]
    differences = {score: round(scores[score] - expected, 2) for score in names}
    within = [score for score, difference in differences.items() if abs(difference) <= facts["tolerance"]]
    score = [*within, *differences][0]
    about |= {"score": score, "difference": differences[score], "tolerance": facts["tolerance"]}
    about["tolerance_covers"] = table()["tolerance_covers"]
    return about | _verdict(bool(within), said, differences[score], score)


def _published_as(benchmark: str) -> str:
    """The benchmark that published scores call it by."""
    known = BENCHMARKS.get(benchmark)
    return known.same_as or benchmark if known else benchmark


def _other_names(report: Mapping[str, Any], wanted: int) -> str:
    """Of how many names the published score is, where this one is of others; "" if it is of as many."""
    given = report["class_names"]
    if given and given["queries"] == wanted:
        return ""
    seen = f"{given['queries']} of {given['file']}" if given else "the packaged ones"
    return (
        f"the class file of the published program, {wanted} names and synonyms, this one of {seen}; eval.class_names "
        "(--class-names) reads such a file from your disk"
    )


def _verdict(matches: bool, said: str, difference: float, score: str) -> dict[str, str]:
    by = "" if score == "mIoU" else f", compared with {score}"
    if matches:
        return {"verdict": "matches", "text": f"matches {said}, difference {difference:+.2f}{by}"}
    return {"verdict": "differs", "text": f"differs by {difference:+.2f} from {said}{by}"}


def _of_the_zoo(path: str) -> str:
    """The checkpoint that a model of the zoo should be; "" for other weights."""
    entry = zoo.table().get(path.removeprefix(sources.ZOO))
    return entry.expected if entry else ""


def _unknown(why: str) -> dict[str, Any]:
    return {"verdict": "unknown", "text": f"unknown: {why}"}
