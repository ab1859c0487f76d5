"""Huge pages for the host memory of programs that run on a CPU.

XLA allocates its temporary buffers anew at every step and frees them after it. With pages of 4 KiB the page faults of
these allocations take up to a third of a training step (10.9 against 8.1 images/s, configs/folder.py, 2 cores shared
with other work). glibc asks for huge pages only if an environment variable says so when the program starts, so the
program is started once more with it.
"""

import os
import platform
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"  # glibc 2.35 and newer; older ones ignore it


def with_huge_pages() -> dict[str, str]:
    """This process's environment for a process of the same kind, with the setting added unless one was chosen."""
    tunables = os.environ.get(VARIABLE, "")
    if SETTING in tunables:
        return dict(os.environ)
    return os.environ | {VARIABLE: ":".join(filter(None, (tunables, f"{SETTING}=1")))}


def restart_with_huge_pages() -> None:
    """Replaces this process by one of the same command whose memory lies in huge pages.

    Returns at once on a system without glibc, and in the new process. To run without huge pages, set the variable to
    `glibc.malloc.hugetlb=0`. Call this first of all in a program: whatever was done before it is done again.
    """
    if platform.libc_ver()[0] == "glibc" and SETTING not in os.environ.get(VARIABLE, ""):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], with_huge_pages())
