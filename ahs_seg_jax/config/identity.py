"""Which settings make a run what it is, and which may change when it is continued."""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.config.command_line import from_config_dict
from ahs_seg_jax.config.experiment import Experiment
from ahs_seg_jax.models.fields import flatten

# These fields do not change what a training run computes, so a stopped run may be continued with other values.
FREE_TO_CHANGE = (
    "name",
    "activation",  # of the towers, whose own fields count
    "mode",
    "data.root",
    "data.num_threads",
    "data.prefetch",
    "data.on_corrupt",
    "mesh",
    "model.class_chunk",
    "model.remat",
    "model.window_attention",
    "model.text.tokenizer",  # its place; the workdir keeps the file, and no other is put there
    "losses.class_chunk",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep",
    "train.on_nonfinite",
    "train.nonfinite_limit",
    "train.eval_every",
    "train.picture_every",
    "eval",
)

# What versions without a field computed, where that is not its default of today: (group, field) -> value.
BEFORE = {("data", "augment", "label_resize"): "centre", ("model", "init"): "scratch"}


def stored(values: Any) -> Experiment:
    """The experiment that a checkpoint holds as JSON, also one of an earlier version.

    A field that came later has the value that says what the earlier version computed. Raises ConfigError for fields
    that are unknown or of a wrong type.
    """
    known = copy.deepcopy(values)
    for (*groups, field), value in BEFORE.items():
        group = known
        for name in groups:
            group = group.get(name) if isinstance(group, Mapping) else None
        if isinstance(group, dict):
            group.setdefault(field, value)
    return from_config_dict(known, partial=True)


def _free_to_change(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE_TO_CHANGE)


def fingerprint(experiment: Experiment) -> str:
    """A short hash of the fields that define the training result (all but FREE_TO_CHANGE)."""
    fixed = {path: value for path, value in flatten(experiment) if not _free_to_change(path)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def differences(stored: Experiment, current: Experiment) -> list[str]:
    """Fields that define the training result and differ, e.g. `train.batch_size: stored 8, now 4`."""
    before = dict(flatten(stored))
    return [
        f"{path}: stored {before[path]!r}, now {value!r}"
        for path, value in flatten(current)
        if before[path] != value and not _free_to_change(path)
    ]
