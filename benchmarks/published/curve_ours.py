"""Our program's loss curves, in a process of its own: `python -m benchmarks.published.curve_ours JOB OUTPUT`.

What is trained is the configuration that users run for the recipe (`configs/vitb.py`), with small sizes, in float32.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import Experiment, loading
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import make_mesh, put_batch, put_replicated
from ahs_seg_jax.models import prompts
from ahs_seg_jax.models.architecture import AggregatorConfig, ModelConfig
from ahs_seg_jax.training import step
from ahs_seg_jax.training.step import TrainState
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary
from benchmarks import machine
from benchmarks.published import curve_job
from benchmarks.published.curve_job import RECIPES, CurveJob, Sizes, batch

ROOT = pathlib.Path(__file__).resolve().parents[2]


ACTIVATION = "--config.activation=quick_gelu"  # both published programs are made of OpenAI's CLIP


def experiment(job: CurveJob, seed: int) -> Experiment:
    """The recipe's experiment with small sizes, which starts from the job's weights.

    Of `components` the published program runs what it can: rotations and biases without HA-HEM, MH-FPN and DC-HSP.
    Raises ValueError if the sizes contradict each other.
    """
    full = loading.load(ROOT / RECIPES[job.recipe].ours, [f"--config.init={job.start or job.clip}", ACTIVATION])
    changed = dataclasses.replace(
        full,
        seed=seed,
        model=small(full.model, curve_job.SIZES),
        train=dataclasses.replace(full.train, batch_size=job.batch),
        losses=dataclasses.replace(full.losses, class_chunk=0),
    )
    if problems := changed.problems():
        raise ValueError("\n".join(problems))
    return changed


def small(model: ModelConfig, sizes: Sizes) -> ModelConfig:
    """The published program's model with these sizes, adapted as `model` is, as far as that program can."""
    return model.replace(
        image=dataclasses.replace(
            model.image,
            layers=sizes.layers,
            width=sizes.image_width,
            heads=max(sizes.image_width // 64, 1),
            patch_size=sizes.patch,
            crop=sizes.crop,
            pretrained_grid=sizes.pretrained_grid,
        ),
        text=dataclasses.replace(
            model.text, layers=sizes.layers, width=sizes.text_width, heads=max(sizes.text_width // 64, 1)
        ),
        embed_dim=sizes.embed,
        block_size=sizes.block,
        adaptation="none" if model.adaptation == "none" else "orthogonal",
        mh_fpn=False,
        dc_hsp=False,
        dtype="float32",
        class_chunk=0,
        remat="none",
        aggregator=AggregatorConfig(
            hidden=sizes.hidden,
            appearance_guidance=sizes.guidance,
            text_guidance=sizes.guidance,
            decoder=sizes.decoder,
            decoder_guidance=sizes.decoder_guidance,
            pad_len=sizes.pad_len,
        ),
    )


def moved(state: TrainState, share: float) -> TrainState:
    """The state with every number that learns multiplied by 1 plus or minus `share`, at random."""
    rng = np.random.default_rng(0)

    def move(values: jax.Array) -> jax.Array:
        signs = rng.integers(0, 2, values.shape, dtype=np.int8) * 2 - 1
        return jax.device_put(np.asarray(values) * np.float32(1 + share * signs), values.sharding)

    return dataclasses.replace(state, trainable=jax.tree.map(move, state.trainable)) if share else state


def curves(job: CurveJob) -> list[dict[str, Any]]:
    """Loss and gradient norm (before clipping) of each update, for each seed."""
    config, mesh = experiment(job, 0), make_mesh(jax.devices()[:1])
    tokens = put_replicated(prompts.split(Vocabulary(job.names).tokens(config.model.text.context)), mesh)
    shardings = partition.tree_shardings(step.abstract_state(config, mesh), mesh)
    make = jax.jit(functools.partial(step.create_state, train=config.train), out_shardings=shardings)
    function, found = None, []
    for seed in job.seeds:
        params, _ = starting.starting_params(experiment(job, seed), mesh)
        state = moved(make(params), job.moved)
        function = function or step.jitted_step(config, None, mesh, state)
        loss, norm = [], []
        for index in range(job.updates):
            images, labels = batch(job, index)
            labels = np.where(labels == curve_job.IGNORE, IGNORE, labels).astype(np.int32)
            rows = {"image": images, "label": labels, "index": np.arange(job.batch, dtype=np.int32)}
            state, metrics = function(state, put_batch(rows, mesh), tokens)
            loss.append(float(metrics["loss/total"]))
            norm.append(float(metrics["gradient_norm"]))
        found.append({"seed": seed, "loss": loss, "gradient_norm": norm})
    return found


def main() -> None:
    """Trains as the job says, writes the curves."""
    job, output = CurveJob.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    found = {"curves": curves(job), "versions": versions(), "hardware": machine.describe()}
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
