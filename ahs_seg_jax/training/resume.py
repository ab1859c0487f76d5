"""How a run goes on: what is said when it stops, what is stored beside the arrays, what may continue it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ahs_seg_jax.config import Experiment, differences, fingerprint, stored
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CheckpointError, ConfigError, InputError
from ahs_seg_jax.models.fields import flatten
from ahs_seg_jax.versions import code_hash, versions

ADDED_LATER = {"contents_sha256"}  # facts about data that checkpoints of earlier versions do not hold


class WorkdirMismatch(InputError):
    """The working directory holds a run of another configuration or other data; the message names what differs."""


def stopped(step: int, saved: Sequence[int]) -> str:
    """What a run says that stops after `step`, with checkpoints of the steps `saved` (ascending)."""
    again = "the same command with the same --workdir"
    if not saved:
        return f"stopped at step {step}, and there is no checkpoint; {again} starts anew"
    if saved[-1] == step:
        return f"stopped at step {step}; {again} continues from there"
    lost = step - saved[-1]
    return (
        f"stopped at step {step}; the newest checkpoint is of step {saved[-1]}: {again} continues from there "
        f"and repeats {lost} step{'s' if lost > 1 else ''}"
    )


def check_workdir(meta: Mapping[str, Any] | None, experiment: Experiment, source: Source) -> None:
    """Raises WorkdirMismatch if a checkpoint's metadata are of another experiment or of other data than these.

    Raises CheckpointError if they do not say of which.
    """
    if meta is None:
        return
    if not isinstance(meta.get("data"), Mapping) or "config" not in meta or "step" not in meta:
        raise CheckpointError("the workdir's newest checkpoint does not say what it is of; choose another workdir")
    try:
        found = differences(stored(meta["config"]), experiment)
    except ConfigError as error:  # of a version with fields that are no more
        found = error.problems
    now = json.loads(json.dumps(source.fingerprint()))
    found += [
        f"the training data's {key}: stored {meta['data'].get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*now, *meta["data"]} - (ADDED_LATER - {*meta["data"]}))
        if now.get(key) != meta["data"].get(key)
    ]
    if found:
        listed = "\n".join(f"  - {line}" for line in found)
        raise WorkdirMismatch(
            f"the workdir belongs to another run, stopped at step {meta['step']}; what differs:\n{listed}\n"
            "set these back to continue that run, or choose another workdir"
        )


def common_facts(experiment: Experiment, source: Source) -> dict[str, Any]:
    """What all processes of a run must hold alike: every field, the code, the vocabulary and the data."""
    return {
        **{path: value for path, value in flatten(experiment) if path != "data.root"},
        "the code": code_hash(),
        **{f"the version of {name}": version for name, version in versions().items()},
        "the vocabulary": source.vocabulary.sha256,
        **{f"the training data's {key}": value for key, value in source.fingerprint().items()},
    }


def checkpoint_meta(experiment: Experiment, source: Source, step: int) -> dict[str, Any]:
    """What is stored beside the arrays: enough to continue exactly, and to use the weights without the config file."""
    return {
        "step": step,
        "config": dataclasses.asdict(experiment),
        "fingerprint": fingerprint(experiment),
        "vocabulary": dataclasses.asdict(source.vocabulary),
        "vocabulary_sha256": source.vocabulary.sha256,
        "data": source.fingerprint(),
        "versions": versions(),
    }
