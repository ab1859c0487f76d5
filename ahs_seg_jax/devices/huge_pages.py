"""Huge pages for the host memory of programs that run on a CPU.

XLA asks for its temporary buffers anew at every step and gives them back after it: at pages of 4 KiB, the faults of getting
them again take up to a third of a training step (10.9 against 8.1 images/s, configs/folder.py, 2 cores shared with other work). glibc asks for
huge pages only if a variable says so when the program starts, so the program is started once more with it.
"""

import os
import platform
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"  # glibc 2.35 and newer; older ones ignore it


def with_huge_pages() -> dict[str, str]:
    """This process's environment for one of the same kind: with the setting, unless one was chosen already."""
    tunables = os.environ.get(VARIABLE, "")
    if SETTING in tunables:
        return dict(os.environ)
    return os.environ | {VARIABLE: ":".join(filter(None, (tunables, f"{SETTING}=1")))}


def restart_with_huge_pages() -> None:
    """Replaces this process by one of the same command whose memory lies in huge pages.

    Returns at once where there is no glibc, and in the new process. Whoever wants none sets the variable to
    `glibc.malloc.hugetlb=0`. Call it first of all in a program: what was done before is done again.
    """
    if platform.libc_ver()[0] == "glibc" and SETTING not in os.environ.get(VARIABLE, ""):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], with_huge_pages())
