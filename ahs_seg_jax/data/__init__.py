"""Data: sources of labelled images, augmentation, and the batches of training."""
