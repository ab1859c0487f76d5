"""The folder where a program keeps, for one user, what it can do without."""

import os
import pathlib
import sys

VARIABLE = "AHS_SEG_CACHE"  # a folder in the place of the user's cache for what is computed here, or "off"


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
