"""Losses, optimiser, steps and the training loop."""
