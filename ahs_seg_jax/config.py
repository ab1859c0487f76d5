"""The configuration of a run: every field once, with its default, unit and meaning.

`configs/*.py` build an `Experiment` and hand it out as an `ml_collections.ConfigDict`, so that any field can be set on
the command line (`--config.train.batch_size=8`); `from_config_dict` turns it back and refuses, all at once, whatever is
unknown, missing, of the wrong type or contradictory.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from ahs_seg_jax.config_fields import build, flatten, unknown
from ahs_seg_jax.data.scenes import ScenesConfig
from ahs_seg_jax.data.transforms import AugmentConfig
from ahs_seg_jax.losses import LossConfig
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.vocabulary import template_problems

MODES = ("train", "eval")
FINETUNE = ("orthogonal", "attention", "full", "scratch", "frozen")
PROTOCOLS = ("whole", "cat_seg")
ON_CORRUPT = ("stop", "skip")
PREDICTIONS = ("", "png", "coco")
ON_NONFINITE = ("stop", "skip")
RANDOM_INIT = "random"

# These fields do not change what a training run computes, so a stopped run may be continued with other values.
FREE_TO_CHANGE = (
    "name",
    "mode",
    "data.root",
    "data.num_threads",
    "data.prefetch",
    "data.on_corrupt",
    "mesh",
    "model.class_chunk",
    "model.remat",
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


class InputError(ValueError):
    """What was asked for cannot be done; the message states cause, value seen and remedy."""


class ConfigError(InputError):
    """A configuration that cannot be run. `problems` lists every reason, one sentence each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__(
            "\n".join([f"the configuration has {len(problems)} problem(s):", *(f"  - {p}" for p in problems)])
        )


@contextlib.contextmanager
def checking_input() -> Iterator[None]:
    """Inside this context a ValueError is about the input, not a fault of the program: it is raised as InputError."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def innermost(error: BaseException) -> BaseException:
    """The InputError that a config file raised: absl and ml_collections put the text of its traceback around it."""
    found, link = error, error.__cause__ or error.__context__
    while link is not None:
        found = link if isinstance(link, InputError) else found
        link = link.__cause__ or link.__context__
    return found


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images and labels come from, and how they are read."""

    name: str = "scenes"  # scenes (drawn, no files) | folder | a benchmark (see `data/prepare.py`)
    root: str = ""  # folder of the data on disk (of benchmarks also AHS_SEG_DATA); unused by scenes
    templates: tuple[
        str, ...
    ] = ()  # prompts, {} = the class name; () = the evaluated weights' own, or the scene prompt
    num_threads: int = 2  # threads that read and augment; 0 = in the training thread
    prefetch: int = 4  # batches read ahead
    on_corrupt: str = "stop"  # an unreadable file in mid-run: stop | skip (another example takes its place; counted)
    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and how often the run reports, saves and evaluates. Intervals are in steps; 0 = never."""

    steps: int = 80_000  # optimiser updates in the whole run
    batch_size: int = 4  # images an update sees, over all devices and micro-batches
    accumulation: int = 1  # micro-batches an update is split into, to save memory
    class_pooling: int = 2  # side of the average pooling before the class layers, in grid tokens
    finetune: str = "orthogonal"  # what learns inside CLIP: orthogonal | attention | full | scratch | frozen
    learning_rate: float = 2e-4  # peak rate outside CLIP
    clip_multiplier: float = 0.01  # the rate inside CLIP, as a share of learning_rate
    weight_decay: float = 1e-4  # AdamW; norms and embeddings are exempt
    clip_norm: float = 1.0  # gradients longer than this (all trainable ones together) are scaled down; 0 = off
    warmup_steps: int = 0  # steps of linear rise before the cosine
    ema_decay: float = 0.0  # share of the average kept by each step, for evaluation; 0 = no average
    log_every: int = 50
    checkpoint_every: int = 1000  # a killed run loses no more steps than these: a save starts every half of them
    checkpoint_minutes: float = 0.0  # nor more minutes than these, likewise; 0 = by steps alone
    keep: int = 2  # newest checkpoints kept; the one with the best mIoU is kept besides
    eval_every: int = 5000  # 0 = once, at the end
    picture_every: int = 1000  # 0 = once, at the end
    on_nonfinite: str = "stop"  # a loss or gradient that is no number: stop | skip (that update is left out; counted)
    nonfinite_limit: int = 10  # skipped updates after which a run stops


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged; the result does not depend on it. One of the three may be -1: what is left."""

    data: int = -1  # batches are split
    fsdp: int = 1  # batches are split, and parameters, optimiser state and moving average too
    classes: int = 1  # the aggregator's and decoder's activations are split by class


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How a model is scored."""

    benchmarks: tuple[str, ...] = ()  # data sets evaluated in turn with --mode=eval; () = the training data's own split
    protocol: str = "whole"  # whole (one view) | cat_seg (windows and a global view, the published numbers)
    class_pooling: int = 1  # side of the average pooling before the class layers, in grid tokens
    batch_size: int = 1  # images (whole) segmented at once
    limit: int = 0  # images scored, from the start of the split; 0 = all
    quick: bool = False  # score a fixed subset of 100 images, for a first answer
    pictures: int = 8  # pictures of predictions written beside the results: random images, the worst, the best
    split: str = "val"
    save_predictions: str = ""  # with --mode=eval: "" (none) | png (class indices) | coco (RLE, needs pycocotools)
    expected: str = ""  # the published checkpoint this should be, such as catseg_vitb16; its scores are compared
    again: bool = False  # evaluate even where a results file of the same evaluation is there
    allow_bad_data: bool = False  # score data that their doctor refuses; the results say so


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that defines a run."""

    name: str = "experiment"
    seed: int = 0  # of the parameters, the order of the data, augmentation and dropout
    init: str = ""  # weights to start from: "tiny", converted directory, checkpoint file, hub name, or "random"
    mode: str = "train"  # train | eval
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one sentence each: field, value seen, what would be valid."""
        return [
            *self.model.problems(),
            *self.data.scenes.problems(),
            *self.data.augment.problems(),
            *self.losses.problems(),
            *_template_problems(self.data),
            *_choice_problems(self),
            *_number_problems(self),
            *_finetune_problems(self),
            *_schedule_problems(self),
            *_mesh_problems(self.mesh),
        ]


def _template_problems(data: DataConfig) -> list[str]:
    return [f"data.templates: {problem}" for problem in template_problems(data.templates)] if data.templates else []


def _choice_problems(experiment: Experiment) -> list[str]:
    choices = {
        "mode": MODES,
        "data.on_corrupt": ON_CORRUPT,
        "train.finetune": FINETUNE,
        "train.on_nonfinite": ON_NONFINITE,
        "eval.protocol": PROTOCOLS,
        "eval.save_predictions": PREDICTIONS,
    }
    values = dict(flatten(experiment))
    return [
        f"{field} is {values[field]!r}; choose one of {', '.join(value or '(empty)' for value in valid)}"
        for field, valid in choices.items()
        if values[field] not in valid
    ]


def _number_problems(experiment: Experiment) -> list[str]:
    found = []
    values = dict(flatten(experiment))
    positive = (
        *("train.steps", "train.batch_size", "train.accumulation", "train.class_pooling", "train.learning_rate"),
        *("train.log_every", "train.keep", "eval.class_pooling", "eval.batch_size"),
    )
    for field in positive:
        if not values[field] > 0:
            found.append(f"{field} is {values[field]}; it must be positive")
    not_negative = (
        *("seed", "data.num_threads", "data.prefetch", "train.clip_multiplier", "train.weight_decay"),
        *("train.clip_norm", "train.warmup_steps", "train.checkpoint_every", "train.eval_every"),
        *("train.checkpoint_minutes", "train.nonfinite_limit"),
        *("train.picture_every", "eval.limit", "eval.pictures"),
    )
    for field in not_negative:
        if values[field] < 0:
            found.append(f"{field} is {values[field]}; it must be 0 or positive")
    if not 0.0 <= experiment.train.ema_decay < 1.0:
        found.append(f"train.ema_decay is {experiment.train.ema_decay}; it must be at least 0 and below 1")
    return found


def _finetune_problems(experiment: Experiment) -> list[str]:
    """What learns inside CLIP must agree with how CLIP is adapted and with where its weights come from."""
    if experiment.mode != "train":
        return []
    finetune, adaptation = experiment.train.finetune, experiment.model.adaptation
    found = []
    if finetune == "orthogonal" and adaptation == "none":
        found.append(
            "train.finetune is 'orthogonal' but model.adaptation is 'none': there are no rotations to train; "
            "set train.finetune to attention, full, scratch or frozen, or model.adaptation to orthogonal or ha_hem"
        )
    if finetune in ("attention", "full") and adaptation in ("orthogonal", "ha_hem"):
        found.append(
            f"train.finetune is {finetune!r} but model.adaptation is {adaptation!r}: the weights under a rotation are "
            "constants; set train.finetune to orthogonal, scratch or frozen, or model.adaptation to none"
        )
    if finetune in FINETUNE and finetune != "scratch" and not experiment.init:
        found.append(
            f"init is empty but train.finetune is {finetune!r}, which keeps CLIP's own weights: download CLIP "
            "(openai/clip-vit-base-patch16 or openai/clip-vit-large-patch14-336 from the Hugging Face hub, or OpenAI's "
            "ViT-B-16.pt or ViT-L-14-336px.pt) and set init to the file or directory; to train everything from "
            f"nothing set train.finetune to scratch, to try the program with random weights set init to {RANDOM_INIT!r}"
        )
    return found


def _schedule_problems(experiment: Experiment) -> list[str]:
    train, grid = experiment.train, experiment.model.grid
    found = []
    if train.warmup_steps >= train.steps > 0:
        found.append(f"train.warmup_steps is {train.warmup_steps}; it must be below train.steps = {train.steps}")
    if train.accumulation > 0 and train.batch_size % train.accumulation:
        found.append(
            f"train.batch_size is {train.batch_size}, not a multiple of train.accumulation = {train.accumulation}"
        )
    for field, pooling in (("train", train.class_pooling), ("eval", experiment.eval.class_pooling)):
        if pooling > 0 and grid % pooling:
            found.append(f"{field}.class_pooling is {pooling}; it must divide the grid of {grid} tokens")
    return found


def _mesh_problems(mesh: MeshConfig) -> list[str]:
    sizes = dataclasses.asdict(mesh)
    found = [
        f"mesh.{axis} is {size}; it must be positive, or -1" for axis, size in sizes.items() if size < 1 and size != -1
    ]
    if list(sizes.values()).count(-1) > 1:
        found.append(f"mesh is {sizes}; only one axis can be -1 (what the others leave)")
    return found


def to_config_dict(experiment: Experiment) -> ml_collections.ConfigDict:
    """The experiment as a ConfigDict whose every field can be set on the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(experiment))


def from_config_dict(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Experiment:
    """The inverse of `to_config_dict`; also reads the plain dictionaries that checkpoints store as JSON.

    Raises ConfigError with every unknown, missing and wrong-typed field, or else with every contradiction.
    """
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    problems: list[str] = []
    experiment = build(Experiment, plain, "", problems)
    problems = problems or experiment.problems()
    if problems:
        raise ConfigError(problems)
    return experiment


def unknown_overrides(argv: Sequence[str]) -> list[str]:
    """One sentence for each `--config.some.field=value` in the command line that names no field of Experiment."""
    valid = [path for path, _ in flatten(Experiment())]
    paths = [argument.split("=")[0].removeprefix("--config.") for argument in argv if argument.startswith("--config.")]
    return [unknown(f"--config.{path}", path, valid) for path in paths if path not in valid]


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


def smoke(experiment: Experiment) -> Experiment:
    """The experiment as a few small steps in which every part (saving, scoring, pictures) is used; most is compiling."""
    train = dataclasses.replace(
        experiment.train, steps=4, batch_size=4, warmup_steps=1, log_every=1, checkpoint_every=2, picture_every=2
    )
    evaluation = dataclasses.replace(experiment.eval, protocol="whole", batch_size=4, limit=4, pictures=2)
    return dataclasses.replace(experiment, train=train, eval=evaluation)


def select(variant: str, variants: Mapping[str, Experiment]) -> ml_collections.ConfigDict:
    """The variant that a config file was asked for (`--config=configs/tiny.py:smoke`); "" is the full run.

    Raises InputError for an unknown one.
    """
    if variant not in variants:
        known = ", ".join(repr(name) for name in variants if name)
        raise InputError(f"variant {variant!r} is not one of this configuration's; choose one of {known}, or none")
    return to_config_dict(variants[variant])
