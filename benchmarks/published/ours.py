"""Our program at the same work, in a process of its own: `python -m benchmarks.published.ours JOB OUTPUT`."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.config import LossConfig
from ahs_seg_jax.models import parameters, prompts
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.training import losses, optimizer
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary
from benchmarks import machine, memory
from benchmarks.counting import flops
from benchmarks.published import job as jobs
from benchmarks.published.job import NACLIP, Job, picture, training_batch
from benchmarks.work import serving, training_free

FINETUNE = {"orthogonal": "orthogonal", "none": "attention"}  # by the adaptation that the weights have
PROTOCOLS = {"whole": "whole", "sliding": "cat_seg"}
POOLING = 2  # in training, as the published program


@dataclasses.dataclass(frozen=True)
class Work:
    """What a job asks for.

    `call(i)` does the work for the i-th time; `answer()` is the result that the other program must also find;
    `matrix_work()` counts the floating-point operations of one call.
    """

    call: Callable[[int], Any]
    answer: Callable[[], dict[str, np.ndarray]]
    matrix_work: Callable[[], float]


def _training(job: Job) -> Work:
    """The loss and its gradient for the parameters that learn, as published: rotations without the three components."""
    loaded = pretrained.load_pretrained(job.weights)
    config = loaded.config.replace(
        dtype=job.dtype, class_chunk=job.class_chunk, remat="cheap" if job.class_chunk else "none"
    )
    model = AHSSeg(config)
    settings = LossConfig(class_chunk=job.class_chunk)
    trainable, frozen = jax.device_put(optimizer.split(loaded.params, FINETUNE[config.adaptation]))
    tokens = jax.device_put(prompts.split(Vocabulary(job.names).tokens(config.text.context, config.text.tokenizer)))

    def loss(trainable: Any, frozen: Any, images: jax.Array, labels: jax.Array, tokens: Prompts) -> jax.Array:
        params = {"params": parameters.merge(trainable, frozen)}
        applied: Any = model.apply(params, images, tokens, class_pooling=POOLING, train=True)
        logits, out = applied
        return losses.total_loss(logits, out, labels, settings)[0]

    gradient = jax.value_and_grad(loss)
    compiled = jax.jit(gradient)

    def batch(index: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = training_batch(job, index)
        return images, np.where(labels == jobs.IGNORE, IGNORE, labels).astype(np.int32)

    def call(index: int) -> Any:
        return jax.block_until_ready(compiled(trainable, frozen, *batch(index), tokens))

    def answer() -> dict[str, np.ndarray]:
        value, gradients = call(0)
        return {"loss": np.asarray(value), "gradient_norm": np.asarray(optax.tree.norm(gradients))}

    return Work(call, answer, lambda: flops.count(gradient, trainable, frozen, *batch(0), tokens).flops)


def _inference(job: Job) -> Work:
    """Labels of a picture; the words are encoded once."""
    method, activation = (NACLIP, "quick_gelu") if job.work == NACLIP else (None, None)
    protocol = PROTOCOLS.get(job.work)
    segmenter = Segmenter.from_pretrained(job.weights, method=method, activation=activation, protocol=protocol)
    if job.dtype != segmenter.config.dtype:
        segmenter.engine.model = segmenter.engine.model.clone(config=segmenter.config.replace(dtype=job.dtype))
    segmenter.set_vocabulary(list(job.names))

    def answer() -> dict[str, np.ndarray]:
        found = segmenter(picture(job, 0), probabilities=True)
        return jobs.probabilities_and_labels(np.asarray(found.probabilities), found.labels)

    def matrix_work() -> float:
        if method:
            function, shapes = training_free.forward(segmenter, len(job.names), job.image)
        else:
            function, shapes = serving.forward(segmenter, len(job.names), segmenter.protocol)
        return flops.count(function, *shapes).flops

    return Work(lambda index: segmenter(picture(job, index)).labels, answer, matrix_work)


def main() -> None:
    """Does the job, writes seconds, peak memory and FLOPs."""
    job, output = Job.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    work = _training(job) if job.work == "training" else _inference(job)
    work.call(1)
    record = jobs.timed(work.call, job.repetitions) | {
        "device_bytes": machine.peak_device_bytes(),
        "flops": work.matrix_work() if job.count_flops else None,
        "huge_pages": memory.has_huge_pages(),
        "versions": versions(),
        "hardware": machine.describe(),
    }
    jobs.reply(job, output, record, work.answer)


if __name__ == "__main__":
    main()
