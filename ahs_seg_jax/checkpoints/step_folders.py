"""Where the steps of a training run lie, by the names of folders; for this Orbax need not be imported."""

import os

from etils import epath

from ahs_seg_jax.storage import paths

SUBDIRECTORY = "checkpoints"


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """An absolute path; `gs://` paths are as they are."""
    return epath.Path(path) if paths.is_remote(path) else epath.Path(os.path.abspath(path))


def steps_in(directory: epath.Path) -> list[int]:
    """The steps that have a folder in this directory."""
    return [int(child.name) for child in directory.glob("*") if _is_step(child.name) and child.is_dir()]


def _is_step(name: str) -> bool:
    """Whether a folder's name is the number of a step."""
    return name.isascii() and name.isdigit()  # other scripts have digits, too, and powers


def find_step(path: epath.Path) -> tuple[epath.Path, int]:
    """(directory of steps, step) for a workdir, its checkpoints directory, or a step's directory.

    Raises FileNotFoundError if there is no checkpoint.
    """
    if _is_step(path.name) and (path / "state").is_dir():
        return path.parent, int(path.name)
    directory = path / SUBDIRECTORY if (path / SUBDIRECTORY).is_dir() else path
    if not (steps := steps_in(directory)):
        raise FileNotFoundError(
            f"no checkpoint in {path}: expected {path / SUBDIRECTORY}/<step>, or a step's directory"
        )
    return directory, max(steps)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `store.load_params` can find a checkpoint at `path`."""
    try:
        find_step(absolute(path))
    except FileNotFoundError:
        return False
    return True
