"""Contradictions between the fields of an experiment, all of them at once, by their text."""

import pytest

from ahs_seg_jax.config import command_line
from ahs_seg_jax.errors import ConfigError
from tests.support.experiments import edited, refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "traim"}, ["mode is 'traim'", "train, eval"]),
        ({"activation": "relu"}, ["model.image.activation is 'relu'", "quick_gelu, gelu"]),
        (
            {"train__finetune": "all"},
            ["train.finetune is 'all'", "orthogonal, orthogonal_biases, attention, full, scratch, frozen"],
        ),
        ({"data__augment__label_resize": "round"}, ["data.augment.label_resize is 'round'", "floor, centre"]),
        ({"data__augment__crop": -1}, ["data.augment.crop is -1; it must be 0 or positive"]),
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
        (
            {"init": "x", "train__finetune": "orthogonal_biases", "model__adaptation": "none"},
            ["train.finetune is 'orthogonal_biases' but model.adaptation is 'none'"],
        ),
        ({"train__finetune": "orthogonal"}, ["init is empty", "clip-vitb16", "'random'"]),
    ],
)
def test_contradictions(changes, words):
    problems = refused(edited(**changes))
    assert any(all(word in problem for word in words) for problem in problems), problems


def test_contradictions_about_training_raise_no_error_in_an_evaluation():
    command_line.from_config_dict(edited(mode="eval", train__finetune="orthogonal"))


def test_several_contradictions_are_named_at_once():
    problems = refused(edited(train__steps=0, eval__batch_size=0, model__embed_dim=65))
    assert len(problems) >= 3
    assert str(ConfigError(problems)).startswith(f"the configuration has {len(problems)} problem(s):\n  - ")
