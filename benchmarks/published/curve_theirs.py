"""The published program's loss curves, in a process of its own.

    python -m benchmarks.published.curve_theirs JOB OUTPUT

Its model, losses and optimiser are its own, from the folder that the job names, and so is the configuration but for the
small sizes. Detectron2's loop, which cannot be installed by pip, is written anew: gradient, update, then the next rate
of half a cosine from `BASE_LR` to zero over `MAX_ITER` updates (`WarmupCosineLR` without warm-up).
"""

import json
import math
import pathlib
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.published import stand_ins, theirs
from benchmarks.published.curve_job import RECIPES, SIZES, CurveJob, batch


def small_config(job: CurveJob) -> stand_ins.Config:
    """The recipe's published configuration with small sizes."""
    config = theirs.read_config(pathlib.Path(job.folder) / RECIPES[job.recipe].config)
    config.MODEL.SEM_SEG_HEAD.update(
        TEXT_GUIDANCE_DIM=SIZES.embed,
        APPEARANCE_GUIDANCE_DIM=SIZES.embed,
        TEXT_GUIDANCE_PROJ_DIM=SIZES.guidance,
        APPEARANCE_GUIDANCE_PROJ_DIM=SIZES.guidance,
        HIDDEN_DIMS=SIZES.hidden,
        DECODER_DIMS=list(SIZES.decoder),
        DECODER_GUIDANCE_PROJ_DIMS=list(SIZES.decoder_guidance),
    )
    config.SOLVER.WEIGHT_DECAY_NORM = 0.0  # Detectron2's default, which no file of the published program repeats
    return config


def make_clip(module: Any, weights: dict[str, torch.Tensor]) -> nn.Module:
    """CLIP with these weights, with rotation blocks of the small size in the place of the published 128."""
    clip = module.build_model(dict(weights))
    rotations = getattr(clip.transformer.resblocks[0], "attn_q_proj_oft_layer_R", None)
    if rotations is not None:
        # All blocks of both towers share the parameter, which begins as zeros and identities: so does its corner.
        corner = nn.Parameter(rotations.detach()[: SIZES.block, : SIZES.block].clone())
        for block in (*clip.transformer.resblocks, *clip.visual.transformer.resblocks):
            block.attn_q_proj_oft_layer_R = corner
    return clip


def build(registry: stand_ins.Registry, config: stand_ins.Config, job: CurveJob) -> nn.Module:
    """The model as its constructor fills it, with CLIP's weights; in training mode."""
    with np.load(job.clip) as stored:
        weights = {name: torch.from_numpy(stored[name]) for name in stored.files}
    # `build_model` removes these three, which OpenAI's files have beside the weights.
    weights |= {name: torch.tensor(0) for name in ("input_resolution", "context_length", "vocab_size")}
    model: Any = theirs.construct(registry, config, job.names, lambda module: make_clip(module, weights))
    # Its constructor knows the widths and crops of ViT-B/16 and ViT-L/14 alone.
    model.clip_resolution = (SIZES.crop, SIZES.crop)
    model.upsample1 = nn.ConvTranspose2d(SIZES.image_width, 256, kernel_size=2, stride=2)
    model.upsample2 = nn.ConvTranspose2d(SIZES.image_width, 128, kernel_size=4, stride=4)
    aggregator = model.sem_seg_head.predictor.transformer
    for module in (aggregator, *(layer.attention for layer in aggregator.layers)):
        module.pad_len = SIZES.pad_len  # 256 by its constructors' defaults
    return model.train()


def train(model: nn.Module, optimizer: Any, config: stand_ins.Config, job: CurveJob) -> dict[str, list[float]]:
    """Loss and gradient norm (before clipping) of each update."""
    rate = lambda step: 0.5 * (1 + math.cos(math.pi * step / config.SOLVER.MAX_ITER))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses, norms = [], []
    for index in range(job.updates):
        rows = [
            {"image": torch.from_numpy(image).permute(2, 0, 1).float(), "sem_seg": torch.from_numpy(label)}
            for image, label in zip(*batch(job, index), strict=True)
        ]
        loss = sum(model(rows).values())
        optimizer.zero_grad()
        loss.backward()
        squares = [(p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None]
        losses.append(loss.item())
        norms.append(float(sum(squares)) ** 0.5)
        optimizer.step()
        schedule.step()
    return {"loss": losses, "gradient_norm": norms}


def curves(job: CurveJob) -> list[dict[str, Any]]:
    """The curve of each seed; the first seed's starting weights go to the file `start`."""
    registry, found = theirs.install(job.folder), []
    trainer = stand_ins.trainer(pathlib.Path(job.folder))
    for seed in job.seeds:
        torch.manual_seed(seed)
        config = small_config(job)
        model = build(registry, config, job)
        if job.start and seed == job.seeds[0]:
            torch.save({"model": model.state_dict()}, job.start)
        found.append({"seed": seed, **train(model, trainer.build_optimizer(config, model), config, job)})
    return found


def main() -> None:
    """Trains as the job says, writes the curves."""
    job, output = CurveJob.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.set_num_threads(job.threads)
    output.write_text(json.dumps({"curves": curves(job), "versions": {"torch": torch.__version__}}))


if __name__ == "__main__":
    main()
