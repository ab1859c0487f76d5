"""Checkpoints: of runs, converted ones, the packaged one, and those of other programs."""
