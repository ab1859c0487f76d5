"""Every configuration file: it loads, survives the round trip, and its initialisation and training step trace."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import Experiment, loading, recipes, training
from ahs_seg_jax.errors import ConfigError, InputError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.training import optimizer, step

CONFIGS = sorted((pathlib.Path(__file__).resolve().parents[1] / "configs").glob("*.py"))
PATHS = {path.stem: path for path in CONFIGS}
CLASSES, LENGTH = 7, 8
WEIGHTS = f"--config.init={training.RANDOM_INIT}"  # in the place of those that a user must name


def experiment(name: str, variant: str = "") -> Experiment:
    """The variant as the program gets it."""
    path = f"{PATHS[name]}:{variant}" if variant else PATHS[name]
    return loading.load(path, [WEIGHTS])


def test_configs_are_found():
    others = {
        "siglip2_vitb",
        "siglip2_vitl",
        "siglip2_so400m",
        "pe_vitb",
        "pe_vitl",
        "eva02_vitb",
        "eva02_vitl",
        "metaclip2_vitb",
        "metaclip2_vitl",
    }
    assert {path.stem for path in CONFIGS} >= {"tiny", "vitb", "vitl", "folder"} | others


RECIPES = [(name, variant) for name in ("vitb", "vitl") for variant in ("orthogonal", "catseg")]


@pytest.mark.parametrize(
    ("name", "init"), [("vitb", "torch"), ("vitl", "torch"), ("tiny", "scratch"), ("folder", "scratch")]
)
def test_published_sizes_start_from_pytorchs_values_and_small_ones_from_those_for_nothing(name, init):
    assert experiment(name, "").model.init == init


# Of the small forms, tests/test_main.py runs one of each tower but this; the others have other sizes only.
@pytest.mark.parametrize(("name", "variant"), [*((name, "") for name in PATHS), ("metaclip2_vitb", "smoke"), *RECIPES])
def test_init_and_training_step_trace(name, variant):
    described = experiment(name, variant)
    settings, crop = described.train, described.train_crop
    state = jax.eval_shape(lambda: step.create_state(starting.fresh_params(described), settings))
    batch = {
        "image": jax.ShapeDtypeStruct((settings.batch_size, crop, crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((settings.batch_size, crop, crop), jnp.int32),
        "index": jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    }
    tokens = jax.ShapeDtypeStruct((CLASSES, described.model.aggregator.prompts, LENGTH), jnp.int32)
    after, metrics = jax.eval_shape(step.make_train_step(described), state, batch, tokens)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(value.dtype == jnp.float32 for value in metrics.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.trainable, state.frozen)))
    components = {"loss/energy", "loss/boundary", "loss/contrastive"}
    losses = {"loss/segmentation"} | (components if (name, variant) not in RECIPES else set())
    assert losses <= set(metrics)
    assert bool(components & set(metrics)) == bool(components & losses)
    assert bool(jax.tree.leaves(state.frozen)) == (settings.finetune != "scratch")


@pytest.mark.parametrize("name", PATHS)
def test_smoke_is_small_and_says_how_it_is_run(name):
    described = experiment(name, "smoke")
    assert described.train.steps <= 4
    assert described.model.image.layers <= 4
    assert f"--config=configs/{name}.py:smoke" in loading.module(PATHS[name]).__doc__
    assert jax.eval_shape(lambda: starting.fresh_params(described))


@pytest.mark.parametrize("name", PATHS)
def test_unknown_variant_is_refused(name):
    with pytest.raises(InputError, match=r"variant 'smok' is not one of .*'smoke'"):
        loading.load(f"{PATHS[name]}:smok")


@pytest.mark.parametrize("name", ["vitb", "vitl"])
def test_published_recipe_needs_weights_and_says_which(name):
    with pytest.raises(ConfigError, match=r"init is empty .*set init to clip-vitb16 or clip-vitl14-336"):
        loading.load(PATHS[name])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.train.step=3"], "did you mean train.steps?"),
        (["--config.train.steps=many"], "--config.train.steps=many"),
        (["--config.train.steps=0"], "train.steps is 0; it must be positive"),
        (["train.steps=3"], "'train.steps=3' sets no field; one is set like this: --config.train.batch_size=8"),
    ],
)
def test_mistakes_in_overrides(arguments, words):
    with pytest.raises(InputError, match=re.escape(words)):
        loading.load(PATHS["tiny"], arguments)


def test_overrides_are_typed():
    found = loading.load(PATHS["tiny"], ["--config.train.learning_rate=1", "--config.eval.benchmarks=('a','b')"])
    assert found.train.learning_rate == 1.0
    assert found.eval.benchmarks == ("a", "b")


def test_configuration_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.py is no Python file with a get_config"):
        loading.load(tmp_path / "nothing.py")


# --------------------------------------------------------------------------------------------- published recipes


@pytest.mark.parametrize(
    ("name", "variant", "batch", "rate", "inside", "clip"),
    [
        ("vitb", "", 16, 2e-4, 0.01, 1.0),
        ("vitb", "orthogonal", 4, 2e-4, 0.01, 0.01),
        ("vitb", "catseg", 4, 2e-4, 0.01, 0.01),
        ("vitl", "", 16, 1e-4, 0.005, 1.0),
        ("vitl", "orthogonal", 4, 2e-4, 0.01, 0.01),
        ("vitl", "catseg", 4, 2e-4, 0.01, 0.01),
    ],
)
def test_published_recipes(name, variant, batch, rate, inside, clip):
    found = experiment(name, variant)
    train = found.train
    assert (train.batch_size, train.learning_rate, train.clip_multiplier, train.clip_norm) == (
        batch,
        rate,
        inside,
        clip,
    )
    assert (train.steps, train.weight_decay, train.class_pooling, train.warmup_steps) == (80_000, 1e-4, 2, 0)
    crops = {"vitb": 384, "vitl": 384 if variant == "catseg" else 336}
    assert found.train_crop == crops[name]
    assert found.model.image.crop == {"vitb": 384, "vitl": 336}[name]
    assert found.data.augment.label_resize == "floor"
    assert recipes.remark(found) == ""
    assert recipes.differences(found, variant or "components") == []


ADAPTATION = {f"clip/adaptation/{name}" for name in ("core", "block_mix", "slot_mix")}
STRENGTHS = {f"clip/adaptation/{name}_{tower}" for name in ("alpha", "beta") for tower in ("image", "text")}
BIASES = {f"clip/image/blocks/{name}/bias" for name in ("query", "key", "value", "out")}
ATTENTION = {f"clip/{tower}/blocks/{name}/kernel" for tower in ("image", "text") for name in ("query", "value")}


@pytest.mark.parametrize("name", ["vitb", "vitl"])
@pytest.mark.parametrize(
    ("variant", "inside", "outside"),
    [
        ("", ADAPTATION | STRENGTHS | BIASES, {"guidance_up_1", "guidance_up_2", "aggregator", "mh_fpn", "dc_hsp"}),
        ("orthogonal", ADAPTATION, {"guidance_up_1", "guidance_up_2", "aggregator"}),
        ("catseg", ATTENTION, {"guidance_up_1", "guidance_up_2", "aggregator"}),
    ],
)
def test_exactly_these_parameters_learn(name, variant, inside, outside):
    described = experiment(name, variant)
    params = jax.eval_shape(lambda: starting.fresh_params(described))
    trainable, frozen = (dict(parameters.flatten(part)) for part in optimizer.split(params, described.train.finetune))
    assert {path for path in trainable if path.startswith("clip/")} == inside
    assert {path.split("/")[0] for path in trainable} == outside | {"clip"}
    assert {path.split("/")[0] for path in frozen} == {"clip"}


@pytest.mark.parametrize(
    ("variant", "overrides", "said"),
    [
        ("catseg", ["train.clip_norm=1.0"], "catseg in: train.clip_norm 1.0 (published 0.01)"),
        ("orthogonal", ["train.clip_norm=1.0"], "orthogonal in: train.clip_norm 1.0 (published 0.01)"),
        (
            "",
            ["data.augment.label_resize=centre"],
            "components in: data.augment.label_resize centre (published floor)",
        ),
        ("", ["train.finetune=orthogonal"], "components in: train.finetune orthogonal (published orthogonal_biases)"),
        ("", ["train.learning_rate=0.001"], "components in: train.learning_rate 0.001 (published 0.0002 or 0.0001)"),
    ],
)
def test_mixed_recipes_are_named(variant, overrides, said):
    path = f"{PATHS['vitb']}:{variant}" if variant else PATHS["vitb"]
    found = loading.load(path, [WEIGHTS, *(f"--config.{override}" for override in overrides)])
    assert recipes.remark(found) == f"differs from the published recipe {said}"


def test_nothing_is_said_about_a_model_from_nothing():
    assert recipes.remark(experiment("tiny")) == ""
