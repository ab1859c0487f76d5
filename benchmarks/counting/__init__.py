"""Counting what a program does: matrix work from its trace, bytes moved from its compiled text."""
