"""Configurations of the command line: round trips, and what is wrong with their form, all of it at once."""

import dataclasses
import json

from ahs_seg_jax.config import command_line, identity
from tests.support.experiments import edited, refused, scratch


def test_round_trip():
    experiment = scratch(seed=7)
    assert command_line.from_config_dict(command_line.to_config_dict(experiment)) == experiment


def test_round_trip_through_json_restores_tuples():
    stored = json.loads(json.dumps(dataclasses.asdict(scratch())))
    assert stored["model"]["mh_fpn_taps"] == [0, 1, 3]
    assert command_line.from_config_dict(stored) == scratch()


def test_one_field_sets_the_activation_of_both_towers_and_identity_is_that_of_the_towers():
    found = command_line.from_config_dict(edited(activation="gelu"))
    assert (found.model.image.activation, found.model.text.activation) == ("gelu", "gelu")
    same = command_line.from_config_dict(edited(model__image__activation="gelu", model__text__activation="gelu"))
    assert identity.fingerprint(found) == identity.fingerprint(same)
    stale = dataclasses.replace(scratch(), activation="gelu")
    assert any("activation is 'gelu' and model.text.activation 'quick_gelu'" in line for line in stale.problems())


def test_whole_number_for_a_float_is_accepted_as_one():
    rate = command_line.from_config_dict(edited(train__learning_rate=1)).train.learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


def test_all_problems_of_form_are_named_at_once():
    values = edited(train__batchsize=8, model__mh_fpn_taps=(1, 3), seed="three", data__on_corrupt=True)
    del values["train"]["steps"]
    problems = refused(values)
    assert len(problems) == 5
    text = "\n".join(problems)
    assert "train.batchsize = 8 is not a field of the configuration; did you mean train.batch_size?" in text
    assert "train.steps is missing" in text
    assert "model.mh_fpn_taps is (1, 3) (tuple); it must be of type tuple[int, int, int]" in text
    assert "seed is 'three' (str); it must be of type int" in text
    assert "data.on_corrupt is True (bool); it must be of type str" in text


def test_number_in_place_of_a_group():
    assert refused(edited(train=3)) == ["train is 3; it must be a group of fields"]


def test_unknown_overrides_are_found_before_the_flags_are_parsed():
    argv = ["main", "--config=configs/tiny.py", "--config.train.batchsize=8", "--config.seed", "3", "--config.zzz=1"]
    problems = command_line.unknown_overrides(argv)
    assert len(problems) == 2
    assert problems[0] == "--config.train.batchsize is not a field of the configuration; did you mean train.batch_size?"
    assert problems[1].startswith("--config.zzz is not a field of the configuration")
    assert command_line.unknown_overrides(["main", "--config.train.batch_size=8", "--config.model.mh_fpn=false"]) == []
