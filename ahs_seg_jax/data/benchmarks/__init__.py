"""The published benchmarks as they are downloaded, and how they become one prepared form (see `data/prepare.py`)."""
