"""What makes two runs the same: fields that define the result, and those that may change."""

import dataclasses
import json
import pathlib

import pytest

from ahs_seg_jax.config import identity
from ahs_seg_jax.errors import ConfigError
from ahs_seg_jax.models.fields import flatten
from tests.support.experiments import scratch


def test_differences_name_what_changes_the_result_and_nothing_else():
    first = scratch()
    train = dataclasses.replace(first.train, batch_size=8, log_every=7, keep=5)
    data = dataclasses.replace(first.data, root="elsewhere", num_threads=1)
    evaluation = dataclasses.replace(first.eval, limit=3)
    second = dataclasses.replace(first, name="other", mode="eval", train=train, data=data, eval=evaluation)
    assert identity.differences(first, second) == ["train.batch_size: stored 4, now 8"]
    assert identity.fingerprint(first) != identity.fingerprint(second)


def test_model_fields_are_not_mistaken_for_mode():
    first = scratch()
    second = dataclasses.replace(first, model=first.model.replace(alpha=0.5))
    assert identity.differences(first, second) == ["model.alpha: stored 0.3, now 0.5"]


def test_fingerprint_ignores_what_does_not_change_the_result():
    first = scratch()
    same = dataclasses.replace(first, name="again", model=first.model.replace(remat="all"))
    assert identity.fingerprint(first) == identity.fingerprint(same)
    assert identity.differences(first, same) == []


def of_an_earlier_version() -> dict:
    """What a checkpoint of version 0.1.0 (df46b6f) holds of the run `first` of these tests."""
    return json.loads(pathlib.Path(__file__).with_name("experiment_of_0.1.0.json").read_text())


def test_a_run_of_an_earlier_version_is_the_same_run():
    first = scratch()
    later = {path for path, _ in flatten(first)} - set(leaves(of_an_earlier_version()))
    assert {"activation", "model.image.mlp_width", "model.text.tokenizer", "losses.unlabelled"} < later
    augment = dataclasses.replace(first.data.augment, label_resize="centre")  # as that version resized labels
    same = dataclasses.replace(first, data=dataclasses.replace(first.data, augment=augment))
    assert identity.stored(of_an_earlier_version()) == same
    assert identity.differences(identity.stored(of_an_earlier_version()), first) == [
        "data.augment.label_resize: stored 'centre', now 'floor'"
    ]


def test_fields_of_a_stored_run_that_came_later_are_compared():
    gelu = dataclasses.replace(scratch(), activation="gelu").with_activation()
    found = identity.differences(identity.stored(of_an_earlier_version()), gelu)
    assert "model.image.activation: stored 'quick_gelu', now 'gelu'" in found
    values = of_an_earlier_version()
    values["model"]["init"], values["data"]["augment"]["label_resize"] = "torch", "floor"
    assert identity.stored(values).model.init == "torch"
    assert identity.stored(values).data.augment.label_resize == "floor"
    for wrong in ([], {"model": 3}, {"data": {"augment": None}}, {"losses": {"gone": 1}}):
        with pytest.raises(ConfigError):
            identity.stored(wrong)


def leaves(values: dict, prefix: str = ""):
    for name, value in values.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
