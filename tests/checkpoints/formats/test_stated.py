"""What tensors do not show is stated by somebody, and all who state it agree."""

import pytest

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.checkpoints.formats import convert, writers
from ahs_seg_jax.checkpoints.formats.stated import FIELDS, OPENAI, Stated, agreed, applied, in_pixels, of_config
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import vitb16
from tests.support.small import changed

ZOO = Stated("gelu", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), stated_by="the model zoo")


def test_statements_are_joined_and_remember_who_made_them():
    facts = agreed([None, Stated("gelu", stated_by="the user"), ZOO, Stated(eps=1e-5, stated_by="a file")], "f")
    assert {field: fact.by for field, fact in facts.items()} == {
        "activation": "the user",
        "pixel_mean": "the model zoo",
        "pixel_std": "the model zoo",
        "eps": "a file",
    }
    config = applied(vitb16(), facts)
    assert (config.image.activation, config.text.activation) == ("gelu", "gelu")
    assert config.image.pixel_mean == config.image.pixel_std == (127.5, 127.5, 127.5)


def test_a_default_gives_way_to_whoever_says_something_else():
    default = Stated("gelu", eps=1e-5, stated_by="a default", yields=True)
    assert agreed([default, Stated("quick_gelu", stated_by="the zoo")], "f") == {
        "activation": ("quick_gelu", "the zoo"),
        "eps": (1e-5, "a default"),
    }
    assert agreed([default], "f")["activation"] == ("gelu", "a default")


def test_openais_statistics_are_exactly_the_towers():
    image = vitb16().image
    assert in_pixels("pixel_mean", OPENAI.pixel_mean) == image.pixel_mean
    assert in_pixels("pixel_std", OPENAI.pixel_std) == image.pixel_std
    assert agreed([OPENAI, of_config(vitb16(), "ours")], "f").keys() == set(FIELDS)
    assert applied(vitb16(), agreed([OPENAI], "f")) == vitb16()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Stated("quick_gelu", stated_by="config.json"),
            "activation is 'gelu' by the model zoo, but 'quick_gelu' by con",
        ),
        (Stated(pixel_mean=(0.5, 0.5, 0.4), stated_by="x"), r"pixel_mean is \(0\.5, .* by the model zoo, but .* by x"),
        (
            Stated(eps=1e-6, stated_by="config.json"),
            r"its eps is 1e-06 by config\.json, and this program has 1e-05 only",
        ),
        (Stated(tokenizer="xlm-roberta", stated_by="c"), "its tokenizer is 'xlm-roberta' by c, .* has 'clip' only"),
    ],
)
def test_contradictions_and_other_clips_are_named_with_both_sources(other, message):
    with pytest.raises(CheckpointError, match=message):
        agreed([ZOO, other], "f")


def test_what_is_known_of_weights_is_not_overruled(visible, random_params, tmp_path):
    config = changed(visible, image__activation="gelu", text__activation="gelu", image__pixel_mean=(1.0, 2.0, 3.0))
    path = writers.write(tmp_path / "f.safetensors", "openai_clip", config, random_params("openai_clip", config))
    found = convert.read(path)
    assert found.config == config
    assert found.manifest["source"]["stated"]["activation"] == {"value": "gelu", "by": "the file's own configuration"}
    assert load_pretrained(path, activation="gelu").config == config
    with pytest.raises(CheckpointError, match=r"'quick_gelu' by the option activation, but 'gelu' by the file's own"):
        load_pretrained(path, activation="quick_gelu")
    with pytest.raises(
        CheckpointError, match="tiny: activation is 'gelu' by the model zoo, but 'quick_gelu' by its own"
    ):
        load_pretrained(packaged.TINY, stated=Stated("gelu", stated_by="the model zoo"))
    with pytest.raises(ValueError, match="activation is 'relu'; choose one of quick_gelu, gelu"):
        load_pretrained(path, activation="relu")
