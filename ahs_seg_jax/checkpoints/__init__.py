"""Checkpoints: other programs' to ours and back (convert, layouts), weights to start from (pretrained), runs."""

from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.checkpoints.pretrained import Pretrained, convert_checkpoint, initialise_from, load_pretrained

__all__ = ["CheckpointError", "Pretrained", "convert_checkpoint", "initialise_from", "load_pretrained"]
