"""Settings of training: steps, rates, losses, what learns, and the mesh of devices."""

import dataclasses

# What learns inside CLIP: mode -> groups of parameters (`training/optimizer.py`). What is outside CLIP always learns.
FINETUNE = {
    "orthogonal": ("adaptation",),
    "orthogonal_biases": ("adaptation", "image_biases"),
    "attention": ("attention",),
    "full": ("attention", "image_biases", "blocks"),
    "scratch": ("adaptation", "attention", "image_biases", "blocks", "clip"),
    "frozen": (),
}
ON_NONFINITE = ("stop", "skip")
RANDOM_INIT = "random"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and how often the run reports, saves and evaluates. Intervals are in steps; 0 = never."""

    steps: int = 80_000  # optimiser updates in the whole run
    batch_size: int = 4  # images an update sees, over all devices and micro-batches
    accumulation: int = 1  # micro-batches an update is split into, to save memory
    class_pooling: int = 2  # side of the average pooling before the class layers, in grid tokens
    finetune: str = "orthogonal"  # what learns inside CLIP: one of FINETUNE
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


UNLABELLED = ("negative", "ignored")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and the clamp of the boundary loss.

    A component that is off has no loss, whatever its weight.
    """

    segmentation: float = 1.0
    energy: float = 0.01
    boundary: float = 0.1
    contrastive: float = 0.05
    hierarchy: float = 0.02
    unlabelled: str = (
        "negative"  # pixels without a label, in segmentation: negative for every class (published) | ignored
    )
    boundary_log_floor: float = -100.0  # clamp of logarithms; -100 is PyTorch's, log(1e-6) = -13.8 trains better
    class_chunk: int = 0  # classes per pass of the two losses at label resolution; 0 = all at once (same results)

    def problems(self) -> list[str]:
        """Contradictions, one sentence each."""
        found = []
        if self.boundary_log_floor >= 0:
            found.append(f"losses.boundary_log_floor is {self.boundary_log_floor}; it must be negative")
        return found
