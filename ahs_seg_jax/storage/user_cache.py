"""The folder where a program keeps, for one user, what it can do without."""

import os
import pathlib
import sys


def folder() -> pathlib.Path:
    """The package's folder in the user's cache, by the custom of the system. Nothing is made."""
    home = pathlib.Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "ahs_seg_jax"
