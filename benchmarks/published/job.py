"""What both programs of a side-by-side run are told, and the inputs that both get. Free of JAX and torch."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

WORKS = ("training", "whole", "sliding")
IGNORE = 255  # label of an unlabelled pixel, in the files of the benchmarks
PROBABILITIES_EVERY = 8  # pixels between those whose probabilities are compared


@dataclasses.dataclass(frozen=True)
class Job:
    """One process's part."""

    work: str  # training | whole | sliding | weights (write random ones)
    folder: str  # of the published program
    names: tuple[str, ...]  # of the classes
    weights: str  # checkpoint file that both read
    batch: int = 1  # images of a training step
    image: tuple[int, int] = (480, 640)  # (height, width) of the pictures that are segmented
    crop: int = 384  # side of the training images
    repetitions: int = 2
    threads: int = 2
    device: str = "cpu"  # of the published program: cpu | cuda
    dtype: str = "float32"  # of ours
    class_chunk: int = 9  # of ours, in training
    count_flops: bool = False
    answer: str = ""  # .npz file for the result that is compared; "" = none

    def write(self, path: pathlib.Path) -> None:
        """To a JSON file."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str) -> "Job":
        """From a JSON file."""
        values: dict[str, Any] = json.loads(pathlib.Path(path).read_text())
        return cls(**(values | {"names": tuple(values["names"]), "image": tuple(values["image"])}))


def picture(job: Job, index: int) -> np.ndarray:
    """The index-th picture, uint8 `[H, W, 3]`: smooth shapes, each another."""
    rng = np.random.default_rng(index)
    height, width = job.image
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]


def training_batch(job: Job, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[b, s, s, 3]` and labels uint8-valued int64 `[b, s, s]`, some of them unlabelled."""
    rng, side = np.random.default_rng(1000 + index), job.crop
    images = rng.integers(0, 256, (job.batch, side, side, 3), dtype=np.uint8)
    patches = rng.integers(-1, len(job.names), (job.batch, 6, 6))
    labels = np.where(patches < 0, IGNORE, patches).repeat(-(-side // 6), 1).repeat(-(-side // 6), 2)
    return images, labels[:, :side, :side].astype(np.int64)
