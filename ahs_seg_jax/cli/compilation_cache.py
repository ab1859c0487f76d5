"""Where compiled programs are kept from run to run."""

import os
import pathlib

from ahs_seg_jax.storage import user_cache

VARIABLE = user_cache.VARIABLE


def use() -> pathlib.Path | None:
    """Tells JAX, which must not be imported yet, to keep what it compiles; returns the folder, None if switched off.

    JAX's own variable JAX_COMPILATION_CACHE_DIR goes before ours.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", chosen or str(default_folder()))
    os.environ.setdefault(
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2"
    )  # JAX's default of 1 s skips small models
    return pathlib.Path(folder)


def default_folder() -> pathlib.Path:
    """The folder in the user's cache."""
    return user_cache.folder() / "compiled"
