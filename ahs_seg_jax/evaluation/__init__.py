"""Scores: predictions, what is counted, results files and what they should be."""
