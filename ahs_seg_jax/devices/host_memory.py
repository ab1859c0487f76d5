"""Giving freed host memory back to the system, for programs that answer requests for days."""

import ctypes
import platform

_TRIM_THRESHOLD, _ARENA_MAX = -1, -8  # numbers of mallopt's parameters, see malloc.h
ARENAS = 2
KEPT = 2**17  # bytes at the top of an arena that may stay with the program; glibc's own first value


def return_freed_memory() -> None:
    """Call this before threads start. glibc keeps the holes that each of many threads leaves behind.

    The page grew by some 0.5 MB a request without it. Nothing happens on a system without glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, ARENAS)
        library.mallopt(_TRIM_THRESHOLD, KEPT)
