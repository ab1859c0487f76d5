"""The configuration: round trips, refusals (all at once, by their text), and what a workdir may be continued with."""

import dataclasses
import json

import pytest

from ahs_seg_jax import config
from ahs_seg_jax.config import ConfigError, Experiment, TrainConfig
from ahs_seg_jax.models import architecture


def scratch(**changes) -> Experiment:
    return Experiment(model=architecture.tiny(), train=TrainConfig(finetune="scratch"), **changes)


def edited(**changes):
    """The ConfigDict of a valid experiment with some fields, named by path (`train__steps`), set to other values."""
    values = config.to_config_dict(scratch()).to_dict()
    for path, value in changes.items():
        *groups, name = path.split("__")
        target = values
        for group in groups:
            target = target[group]
        target[name] = value
    return values


def refused(values) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.from_config_dict(values)
    return caught.value.problems


def test_round_trip():
    experiment = scratch(seed=7)
    assert config.from_config_dict(config.to_config_dict(experiment)) == experiment


def test_round_trip_through_json_restores_tuples():
    stored = json.loads(json.dumps(dataclasses.asdict(scratch())))
    assert stored["model"]["mh_fpn_taps"] == [0, 1, 3]
    assert config.from_config_dict(stored) == scratch()


def test_whole_number_for_a_float_is_accepted_as_one():
    rate = config.from_config_dict(edited(train__learning_rate=1)).train.learning_rate
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "traim"}, ["mode is 'traim'", "train, eval"]),
        ({"train__finetune": "all"}, ["train.finetune is 'all'", "orthogonal, attention, full, scratch, frozen"]),
        ({"eval__protocol": "fast"}, ["eval.protocol is 'fast'", "whole, cat_seg"]),
        ({"data__on_corrupt": "ask"}, ["data.on_corrupt is 'ask'", "stop, skip"]),
        ({"data__templates": ("a {}", "a")}, ["data.templates: template 'a' must hold exactly one {}"]),
        ({"train__steps": 0}, ["train.steps is 0; it must be positive"]),
        ({"train__clip_norm": -1.0}, ["train.clip_norm is -1.0; it must be 0 or positive"]),
        ({"train__ema_decay": 1.0}, ["train.ema_decay is 1.0", "below 1"]),
        ({"train__warmup_steps": 9, "train__steps": 9}, ["train.warmup_steps is 9", "below train.steps = 9"]),
        ({"train__batch_size": 5, "train__accumulation": 3}, ["train.batch_size is 5", "train.accumulation = 3"]),
        ({"train__class_pooling": 5}, ["train.class_pooling is 5; it must divide the grid of 8 tokens"]),
        ({"model__image__width": 97}, ["model.image.width is 97", "model.image.heads = 4"]),
        ({"model__image__crop": 97}, ["model.image.crop is 97", "96 and 104"]),
        ({"init": "x", "train__finetune": "full"}, ["train.finetune is 'full'", "'ha_hem'", "under a rotation"]),
        (
            {"init": "x", "train__finetune": "orthogonal", "model__adaptation": "none"},
            ["model.adaptation is 'none'", "no rotations to train"],
        ),
        ({"train__finetune": "orthogonal"}, ["init is empty", "openai/clip-vit-base-patch16", "'random'"]),
    ],
)
def test_contradictions(changes, words):
    problems = refused(edited(**changes))
    assert any(all(word in problem for word in words) for problem in problems), problems


def test_evaluation_needs_no_agreement_about_training():
    config.from_config_dict(edited(mode="eval", train__finetune="orthogonal"))


def test_several_contradictions_are_named_at_once():
    problems = refused(edited(train__steps=0, eval__batch_size=0, model__embed_dim=65))
    assert len(problems) >= 3
    assert str(ConfigError(problems)).startswith(f"the configuration has {len(problems)} problem(s):\n  - ")


def test_unknown_overrides_are_found_before_the_flags_are_parsed():
    argv = ["main", "--config=configs/tiny.py", "--config.train.batchsize=8", "--config.seed", "3", "--config.zzz=1"]
    problems = config.unknown_overrides(argv)
    assert len(problems) == 2
    assert problems[0] == "--config.train.batchsize is not a field of the configuration; did you mean train.batch_size?"
    assert problems[1].startswith("--config.zzz is not a field of the configuration")
    assert config.unknown_overrides(["main", "--config.train.batch_size=8", "--config.model.mh_fpn=false"]) == []


def test_differences_name_what_changes_the_result_and_nothing_else():
    first = scratch()
    train = dataclasses.replace(first.train, batch_size=8, log_every=7, keep=5)
    data = dataclasses.replace(first.data, root="elsewhere", num_threads=1)
    evaluation = dataclasses.replace(first.eval, limit=3)
    second = dataclasses.replace(first, name="other", mode="eval", train=train, data=data, eval=evaluation)
    assert config.differences(first, second) == ["train.batch_size: stored 4, now 8"]
    assert config.fingerprint(first) != config.fingerprint(second)


def test_model_fields_are_not_mistaken_for_mode():
    first = scratch()
    second = dataclasses.replace(first, model=first.model.replace(alpha=0.5))
    assert config.differences(first, second) == ["model.alpha: stored 0.3, now 0.5"]


def test_fingerprint_ignores_what_does_not_change_the_result():
    first = scratch()
    same = dataclasses.replace(first, name="again", model=first.model.replace(remat="all"))
    assert config.fingerprint(first) == config.fingerprint(same)
    assert config.differences(first, same) == []
