"""Training-free segmentation: a plain CLIP whose last block is computed differently, and nothing else.

`settings` says which method with which numbers, `last_blocks` has the methods' blocks in one table, `model` the CLIP
that runs them, and `pamr` and `propagation` refine its logits at the image's size.
"""

from ahs_seg_jax.models.training_free.settings import METHODS, TrainingFree

__all__ = ["METHODS", "TrainingFree"]
