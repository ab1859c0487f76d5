"""Where a checkpoint lies on this machine; `checkpoints.sources` brings here what lies elsewhere."""

import os
import pathlib

from ahs_seg_jax.errors import CheckpointError


def locate(source: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file or directory. Raises CheckpointError if there is none."""
    path = pathlib.Path(source)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {source}")
    return path
