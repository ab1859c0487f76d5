"""What both programs of a side-by-side run have in common: what they are told, their inputs, how they are timed.

This module imports neither JAX nor torch, so that neither program's process loads the other's library.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import memory

WORKS = ("training", "whole", "sliding")  # of CAT-Seg and AHS-Seg
NACLIP = "naclip"  # the work of another published program
IGNORE = 255  # label of an unlabelled pixel, in the files of the benchmarks
PROBABILITIES_EVERY = 8  # pixels between those whose probabilities are compared
SHORTEST = 640  # pixels to which the published reader brings the shortest edge before windows are cut


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process of one program is asked to do."""

    work: str  # training | whole | sliding | weights (write random ones) | naclip | naclip_weights
    folder: str  # where the published program is
    names: tuple[str, ...]  # the classes' names
    weights: str  # checkpoint file that both read
    batch: int = 1  # images of a training step
    image: tuple[int, int] = (480, 640)  # (height, width) of the pictures that are segmented
    crop: int = 384  # side of the training images
    repetitions: int = 2
    threads: int = 2
    device: str = "cpu"  # where the published program runs: cpu | cuda
    runner: str = "eager"  # how the published program runs: eager | compiled | onnxruntime (export: writes its file)
    mode: str = "default"  # of torch.compile
    exported: str = ""  # ONNX file of the published model, which `export` writes and `onnxruntime` runs
    dtype: str = "float32"  # our program's
    class_chunk: int = 9  # our program's in training
    count_flops: bool = False
    answer: str = ""  # .npz file for the result that is compared; "" = none

    def write(self, path: pathlib.Path) -> None:
        """Writes the job to a JSON file."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str) -> "Job":
        """The job in a JSON file."""
        values: dict[str, Any] = json.loads(pathlib.Path(path).read_text())
        return cls(**(values | {"names": tuple(values["names"]), "image": tuple(values["image"])}))


def picture(job: Job, index: int) -> np.ndarray:
    """The index-th picture, uint8 `[H, W, 3]`: smooth shapes, different for each index."""
    rng = np.random.default_rng(index)
    height, width = job.image
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]


def seen(job: Job, index: int) -> np.ndarray:
    """`picture` as the published reader hands it to the model, uint8 `[h, w, 3]`."""
    image = picture(job, index)
    if job.work != "sliding":
        return image
    height, width = image.shape[:2]
    scale = SHORTEST / min(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def probabilities_and_labels(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What two programs compare of a segmented picture, of probabilities `[t, H, W]` and labels `[H, W]`."""
    every = PROBABILITIES_EVERY
    return {"probabilities": probabilities[:, ::every, ::every], "labels": labels}


def training_batch(job: Job, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 `[b, s, s, 3]`, and labels, int64 `[b, s, s]`; some pixels are unlabelled (`IGNORE`)."""
    rng, side = np.random.default_rng(1000 + index), job.crop
    images = rng.integers(0, 256, (job.batch, side, side, 3), dtype=np.uint8)
    patches = rng.integers(-1, len(job.names), (job.batch, 6, 6))
    labels = np.where(patches < 0, IGNORE, patches).repeat(-(-side // 6), 1).repeat(-(-side // 6), 2)
    return images, labels[:, :side, :side].astype(np.int64)


def timed(call: Callable[[int], Any], repetitions: int, wait: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Seconds and processor seconds of each of `repetitions` calls, and the peak memory of the process in bytes.

    `call(i)` does the work for the i-th time. The caller has already made those calls that do not count: `call(0)`, if
    anything is to be prepared, and `call(1)`. `wait()` returns when the device has finished what it was given.
    """
    seconds, processor = [], []
    for index in range(repetitions):
        wait()
        started, busy = time.perf_counter(), time.process_time()
        call(2 + index)
        wait()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - busy)
    peak = memory.peak_process_bytes()
    return {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}


def reply(job: Job, output: pathlib.Path, record: dict[str, Any], answer: Callable[[], dict[str, np.ndarray]]) -> None:
    """Writes the record and, if the job asks for it, the result that the other program must also find."""
    if job.answer:
        np.savez(job.answer, allow_pickle=False, **answer())
    output.write_text(json.dumps(record))
