"""The work that `benchmarks.run` measures: training steps and their parts, what users of a model wait for, the host's own."""
