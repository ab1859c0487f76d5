"""Towers: what turns images into dense features, and prompts into embeddings.

A new tower is a file here and a line in `registry`; `interface` says what it offers.
"""
