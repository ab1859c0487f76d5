"""The configuration of a run: every field once, with its default, unit and meaning.

`configs/*.py` build an `Experiment` and hand it out as an `ml_collections.ConfigDict`, so that any field can be set on
the command line (`--config.train.batch_size=8`); `from_config_dict` turns it back and refuses, all at once, whatever is
unknown, missing, of the wrong type or contradictory.
"""

import dataclasses

from ahs_seg_jax.config import evaluation, training
from ahs_seg_jax.config.data import LABEL_RESIZE, ON_CORRUPT, DataConfig
from ahs_seg_jax.config.evaluation import EvalConfig
from ahs_seg_jax.config.training import LossConfig, MeshConfig, TrainConfig
from ahs_seg_jax.inference.protocols import PROTOCOLS
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.fields import flatten, number_problems
from ahs_seg_jax.vocabulary import template_problems

MODES = ("train", "eval")
MAY_BE_NEGATIVE = ("losses.boundary_log_floor", "mesh.data", "mesh.fsdp", "mesh.classes")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that defines a run."""

    name: str = "experiment"
    seed: int = 0  # of the parameters, the order of the data, augmentation and dropout
    init: str = ""  # weights to start from: a path, a name of `ahs-seg models` or of the hub, "tiny", or "random"
    activation: str = ""  # quick_gelu | gelu: of both towers, and of weights that do not state theirs; "" = as they say
    mode: str = "train"  # train | eval
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)

    def with_activation(self) -> "Experiment":
        """The experiment whose towers have `activation`, where that is set (`ModelConfig.with_activation`)."""
        return dataclasses.replace(self, model=self.model.with_activation(self.activation)) if self.activation else self

    @property
    def train_crop(self) -> int:
        """Side of the square training crops, in pixels."""
        return self.data.augment.crop or self.model.image.crop

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one sentence each: field, value seen, what would be valid."""
        return [
            *self.model.problems(),
            *self.data.scenes.problems(),
            *self.data.augment.problems(),
            *self.losses.problems(),
            *_template_problems(self.data),
            *_choice_problems(self),
            *_activation_problems(self),
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
        "data.augment.label_resize": LABEL_RESIZE,
        "losses.unlabelled": training.UNLABELLED,
        "train.finetune": training.FINETUNE,
        "train.on_nonfinite": training.ON_NONFINITE,
        "eval.protocol": tuple(PROTOCOLS),
        "eval.save_predictions": evaluation.PREDICTIONS,
    }
    values = dict(flatten(experiment))
    return [
        f"{field} is {values[field]!r}; choose one of {', '.join(value or '(empty)' for value in valid)}"
        for field, valid in choices.items()
        if values[field] not in valid
    ]


def _activation_problems(experiment: Experiment) -> list[str]:
    model, wanted = experiment.model, experiment.with_activation().model
    pairs = (("image", model.image, wanted.image), ("text", model.text, wanted.text))
    return [
        f"activation is {experiment.activation!r} and model.{name}.activation {tower.activation!r}; set the first alone"
        for name, tower, meant in pairs
        if tower.activation != meant.activation
    ]


def _number_problems(experiment: Experiment) -> list[str]:
    values = dict(flatten(experiment))
    found = number_problems(((k, v) for k, v in values.items() if not k.startswith("model.")), MAY_BE_NEGATIVE)
    positive = (
        *("train.steps", "train.batch_size", "train.accumulation", "train.class_pooling", "train.learning_rate"),
        *("train.log_every", "train.keep", "eval.class_pooling", "eval.batch_size"),
    )
    for field in positive:
        if not values[field] > 0:
            found.append(f"{field} is {values[field]}; it must be positive")
    if not 0.0 <= experiment.train.ema_decay < 1.0:
        found.append(f"train.ema_decay is {experiment.train.ema_decay}; it must be at least 0 and below 1")
    return found


def _finetune_problems(experiment: Experiment) -> list[str]:
    """What learns inside CLIP must agree with how CLIP is adapted and with where its weights come from."""
    if experiment.mode != "train":
        return []
    finetune, adaptation = experiment.train.finetune, experiment.model.adaptation
    found = []
    if finetune.startswith("orthogonal") and adaptation == "none":
        found.append(
            f"train.finetune is {finetune!r} but model.adaptation is 'none': there are no rotations to train; "
            "set train.finetune to attention, full, scratch or frozen, or model.adaptation to orthogonal or ha_hem"
        )
    if finetune in ("attention", "full") and adaptation in ("orthogonal", "ha_hem"):
        found.append(
            f"train.finetune is {finetune!r} but model.adaptation is {adaptation!r}: the weights under a rotation are "
            "constants; set train.finetune to orthogonal, scratch or frozen, or model.adaptation to none"
        )
    if finetune in training.FINETUNE and finetune != "scratch" and not experiment.init:
        found.append(
            f"init is empty but train.finetune is {finetune!r}, which keeps CLIP's own weights: set init to "
            "clip-vitb16 or clip-vitl14-336, which are downloaded (`ahs-seg models` lists others), or to a file or "
            "directory of yours, such as OpenAI's ViT-B-16.pt; to train everything from nothing set train.finetune to "
            f"scratch, to try the program with random weights set init to {training.RANDOM_INIT!r}"
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
