"""Meshes, partition rules and processes."""
