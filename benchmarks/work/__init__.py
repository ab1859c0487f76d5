"""The work that `benchmarks.run` measures: training, what users of a model wait for, what the host does."""
