"""Numbers and names that mean nothing are refused before anything starts, whichever field they stand in."""

import dataclasses
import math

import pytest

from ahs_seg_jax.config import Experiment, command_line
from ahs_seg_jax.config.experiment import MAY_BE_NEGATIVE
from ahs_seg_jax.errors import ConfigError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.fields import flatten
from ahs_seg_jax.vocabulary import Vocabulary, packaged_names


def numbers(value):
    return [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int | float)]


def numeric_fields(kind):
    return [
        path
        for path, value in flatten(Experiment())
        if numbers(value) and isinstance(numbers(value)[0], kind) and not isinstance(numbers(value)[0], bool)
    ]


def changed(path, number):
    """The problems of an experiment with this number in the field, in every place of a tuple."""
    content = command_line.to_config_dict(Experiment()).to_dict()
    group, parts = content, path.split(".")
    for part in parts[:-1]:
        group = group[part]
    before = group[parts[-1]]
    group[parts[-1]] = tuple(number for _ in before) if isinstance(before, tuple) else number
    with pytest.raises(ConfigError) as caught:
        command_line.from_config_dict(content)
    return caught.value.problems


@pytest.mark.parametrize("path", numeric_fields(float))
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_every_field_refuses_what_is_not_finite(path, number):
    assert any(problem.startswith(f"{path} is ") and "finite" in problem for problem in changed(path, number))


@pytest.mark.parametrize("path", sorted({*numeric_fields(int), *numeric_fields(float)} - {*MAY_BE_NEGATIVE}))
def test_every_field_refuses_negative_numbers(path):
    if path == "model.image.pixel_mean":
        pytest.skip("some models' pixels have a negative mean")
    wrong = -5 if path in numeric_fields(int) else -5.0
    assert any(problem.startswith(f"{path} is ") for problem in changed(path, wrong))


@pytest.mark.parametrize("path", numeric_fields(int))
def test_every_field_refuses_numbers_without_bounds(path):
    assert any(problem.startswith(f"{path} is ") for problem in changed(path, 10**20))


def test_layers_are_bounded_before_anything_is_made_of_them():
    model = dataclasses.replace(ModelConfig(), image=dataclasses.replace(ModelConfig().image, layers=10**9))
    assert model.problems() == ["model.image.layers is 1000000000; it must be at least 1 and at most 1000"]


@pytest.mark.parametrize(
    "letter",
    [
        "\0",
        "\x01",
        "\x07",
        "\x08",
        "\x0b",
        "\x0c",
        "\x1b",
        "\x7f",
        "\x80",
        "\x85",
        "\x9f",
        "\ud800",
        "\ufffe",
    ],
)
def test_control_characters_are_refused(letter):
    for name in (f"ca{letter}t", f"{letter}cat", f"cat{letter}"):
        with pytest.raises(ValueError, match=r"name 2, .* holds the control character .*; remove it"):
            Vocabulary(("dog", name))


def test_what_other_scripts_need_is_no_control_character():
    names = ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0915\u094d\u200d\u0937", "trash\tcan", "\u72d7")
    assert Vocabulary(names).names == names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),  # composed and decomposed
        ("cat", "\uff43\uff41\uff54"),  # full-width
        ("of\ufb01ce", "office"),  # a ligature
        ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"),
        ("fish & chips", "fish &amp; chips"),
        ("garbage\u00a0can", "garbage can"),
        ("\u30ab\u30e1\u30e9", "\uff76\uff92\uff97"),  # half-width
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_two_ways_to_write_a_name_are_one_name(one, other):
    with pytest.raises(ValueError, match=r"name 3, .* repeats name 1, "):
        Vocabulary((one, "sky", other))
    assert len(Vocabulary((one, "sky"))) == len(Vocabulary((other, "sky"))) == 2


def test_names_of_equal_prompts_are_refused_where_nobody_published_them():
    with pytest.raises(ValueError, match=r"name 2, 'sofa, settee', has the same first synonym as 'sofa, couch', so"):
        Vocabulary(("sofa, couch", "sofa, settee"))
    assert len(Vocabulary(("sofa, couch", "sofa, settee"), synonyms="mean")) == 2
    for name in packaged_names():
        published = Vocabulary.named(name)
        assert Vocabulary((*published.names, "zebra crossing of mine")).names[:-1] == published.names


def test_accepted_names_have_tokens_of_their_own():
    names = ("cat", "cats", "c a t", "ca\u00b7t", "x\u00b2", "\u2460", "caf\u00e9", "cafe", "stra\u00dfe", "na\u00efve")
    tokens = Vocabulary(names).tokens()
    assert len({row.tobytes() for row in tokens}) == len(names)
