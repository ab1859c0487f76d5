"""Estimates for TPU chips and slices that are not there, from programs compiled ahead of time."""
