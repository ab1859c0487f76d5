"""Parameters, batches, names and pictures to measure with. Their sizes are right, and their contents do not matter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import RANDOM_INIT, Experiment, LossConfig, TrainConfig
from ahs_seg_jax.models import prompts
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.vocabulary import Vocabulary
from benchmarks.settings import Settings


def experiment(settings: Settings) -> Experiment:
    """The published recipe at the settings' sizes."""
    return Experiment(
        name="benchmark",
        init=RANDOM_INIT,
        model=settings.model(),
        train=TrainConfig(batch_size=settings.batch, finetune="orthogonal"),
        losses=LossConfig(class_chunk=max(settings.class_chunk, 0)),
    )


def parameters(config: ModelConfig) -> dict[str, Any]:
    """Parameters of plausible size in host memory, made without compiling anything."""
    return starting.plausible_params(config)


def vocabulary(classes: int, first: int = 0) -> Vocabulary:
    """`classes` names, from the `first` on, of COCO-Stuff's and then the same with numbers behind them."""
    names = Vocabulary.named("coco_stuff").names
    numbered = (divmod(first + index, len(names)) for index in range(classes))
    return Vocabulary(tuple(f"{names[index]} {number}" if number else names[index] for number, index in numbered))


def tokens(settings: Settings) -> Prompts:
    """The training classes' prompts, as a training step takes them."""
    return jax.device_put(prompts.split(vocabulary(settings.train_classes).tokens(settings.model().text.context)))


def batch(settings: Settings) -> dict[str, np.ndarray]:
    """A training batch of noise, with labels in large patches."""
    rng, side = np.random.default_rng(1), settings.crop
    shape = (settings.batch, side, side)
    labels = rng.integers(0, settings.train_classes, (settings.batch, 4, 4)).astype(np.int32)
    return {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "label": labels.repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)[:, :side, :side],
        "index": np.arange(settings.batch, dtype=np.int32),
    }


def picture(settings: Settings, index: int) -> np.ndarray:
    """The index-th picture, uint8 `[H, W, 3]`, different for each index because a segmenter remembers pictures."""
    return np.random.default_rng(index).integers(0, 256, (*settings.image, 3), dtype=np.uint8)


def noise(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng(2).standard_normal(shape, np.float32)).astype(dtype)
