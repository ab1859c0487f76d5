"""Towers: what turns images into dense features, and prompts into embeddings. A new one is a file here and a line in `registry`."""
