"""The memory of a process. This module imports neither JAX nor torch, so that either program's process can use it."""

import os
import pathlib
import resource
import sys

from ahs_seg_jax.devices.huge_pages import SETTING, VARIABLE


def has_huge_pages() -> bool:
    """Whether this process was started with huge pages."""
    return f"{SETTING}=1" in os.environ.get(VARIABLE, "")


def peak_process_bytes() -> int:
    """The most memory that this process has held at once."""
    try:
        # What getrusage reports survives exec, and so begins with the parent's peak.
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
