"""A model that compares colours, and sources of coloured images: scores can be counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.devices import mesh
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.evaluation import score
from ahs_seg_jax.evaluation.results import Evaluation
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.vocabulary import Vocabulary, tokenizer

COLORS = ("red", "green", "blue", "sky")
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
PARAMS = {"scale": np.float32(20)}


@dataclasses.dataclass(frozen=True)
class ColorModel:
    """A class called "red" has the logit scale (share of red - 1/2); a class that is no colour has the lowest."""

    config: ModelConfig = dataclasses.field(default_factory=lambda: architecture.tiny().replace(adaptation="none"))

    def apply(self, variables, *args, method, **options):
        return getattr(self, method)(variables["params"], *args, **options)

    def encode_text(self, params, tokens):
        words = jnp.asarray([[[[tokenizer.encode(color)[1] for color in COLORS[:3]]]]])
        return (tokens[..., None] == words).any(axis=2).astype(jnp.float32)

    def encode_image(self, params, images):
        return {"image": resize.bilinear(images / 255, (6, 6))}

    def segment(self, params, features, text, *, class_pooling, class_mask):
        share = jnp.einsum("bhwc,tpc->bthw", features["image"], text)
        return jnp.where(class_mask[None, :, None, None], params["scale"] * (share - 0.5), -100.0), {}


class ListSource:
    """Images of one colour each (index into COLORS, None = an unreadable file) with the given label maps."""

    def __init__(self, colors, labels, names=COLORS):
        self.colors, self.labels, self.vocabulary = colors, labels, Vocabulary(names)

    def __len__(self):
        return len(self.colors)

    def __getitem__(self, index):
        if self.colors[index] is None:
            raise CorruptExample(f"{self.name(index)}: truncated file")
        label = np.asarray(self.labels[index], np.int32)
        return {"image": np.broadcast_to(RGB[self.colors[index]], (*label.shape, 3)).copy(), "label": label}

    def name(self, index):
        return f"image_{index}.png"

    def fingerprint(self):
        return {"images": len(self)}


class Interrupted(Exception):
    pass


class Stopping(ListSource):
    """A source whose image `stop_at` ends the program; it counts the images that were read."""

    def __init__(self, stop_at, colors, labels):
        super().__init__(colors, labels)
        self.stop_at, self.read = stop_at, []

    def __getitem__(self, index):
        if index == self.stop_at:
            raise Interrupted
        self.read.append(index)
        return super().__getitem__(index)


def filled(height, width, upper, lower=None):
    label = np.full((height, width), upper)
    label[height // 2 :] = upper if lower is None else lower
    return label


def by_hand() -> ListSource:
    """Red found; green found but for its lower half, which is blue; blue taken for red; a third image unlabelled."""
    labels = [filled(10, 7, 0), filled(20, 5, 1, 2), filled(6, 11, -1, 0), filled(4, 3, 2)]
    return ListSource([0, 1, 0, 0], labels)


def random_source(count: int = 7) -> ListSource:
    rng = np.random.default_rng(0)
    labels = [rng.integers(-1, 4, (int(rng.integers(5, 90)), int(rng.integers(5, 90)))) for _ in range(count)]
    return ListSource([int(color) for color in rng.integers(0, 3, count)], labels)


def one_device():
    return mesh.make_mesh(jax.devices()[:1])


def evaluate(source, params=PARAMS, *, vocabulary=None, path=None, step=None, **options) -> Evaluation:
    """Scores of ColorModel, without pictures; `options` are fields of EvalConfig and arguments of `score.evaluate`."""
    fields, options = {field.name for field in dataclasses.fields(EvalConfig)}, {"pictures": 0} | options
    settings = EvalConfig(**{name: value for name, value in options.items() if name in fields})
    others = {name: value for name, value in options.items() if name not in fields}
    weights = score.Weights(ColorModel(), params, vocabulary, path, step)
    return score.evaluate(weights, source, settings, **others)
