"""The one exception of this package: a checkpoint that cannot be read, matched or written."""


class CheckpointError(RuntimeError):
    """States the file, what is wrong with it, the value seen and what to do about it."""
