"""How many processors this process may use, and work in threads whose results come in order."""

import collections
import concurrent.futures
import functools
import math
import os
import pathlib
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_GROUPS, _ROOT = pathlib.Path("/proc/self/cgroup"), pathlib.Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 20  # processors; more than any machine has


def cores() -> int:
    """Processors that this process may use: those of its affinity, and no more than its control group's quota.

    A container or a batch system often grants a process a few of a machine's many processors. `os.cpu_count` does not
    know of that, and as many threads as it says would only get in each other's way.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _quota())


@functools.cache
def _quota() -> int:
    return quota(_GROUPS, _ROOT)


def quota(groups: pathlib.Path, root: pathlib.Path) -> int:
    """Processors' worth of time that control groups grant a process, rounded up; very many without a bound.

    `groups` is the process's list of them, `root` where they are mounted. Both versions of Linux's control groups are
    read; a group has no more than the groups around it.
    """
    found = [_UNLIMITED]
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return _UNLIMITED
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounts = [root / controllers, root / "cpu"] if "cpu" in controllers.split(",") else []
        if not controllers:  # of version 2, which has one tree for all
            mounts = [root]
        for mount in mounts:
            here = mount / path.lstrip("/")
            found += [_granted(folder) for folder in (here, *here.parents) if folder.is_relative_to(mount)]
    return min(found)


def _granted(folder: pathlib.Path) -> int:
    """What one control group grants."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = " ".join((folder / name).read_text() for name in names).split()
            if time not in ("max", "-1"):
                return max(1, math.ceil(int(time) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):  # no such file: another version, or no bound of this kind
            continue
    return _UNLIMITED


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    ahead: int | None = None,
    size: Callable[[Item], float] = lambda _: 0.0,
    most: float = math.inf,
) -> Generator[Result, None, None]:
    """`function(item)` of every item, in the items' order, computed in `threads` threads.

    While the next item is awaited, or a result is used, at most `ahead` items are under way or done (None: as many as
    `threads`): so one stage of a work overlaps with the stages before and behind it, in bounded memory. `size` is what
    an item occupies; no further item is awaited while these occupy more than `most`, so that large ones go one after
    the other. Of `ahead` items that are under way, one that is done is handed out before another is awaited.

    What `items` or `function` raises comes where a loop without threads would raise it: after the results of all items
    before. Work that has begun then, or when the iterator is closed, is finished first; what waits is dropped.
    """
    threads, left, problem, held = max(1, threads), iter(items), None, 0.0
    ahead = threads if ahead is None else ahead
    running: collections.deque[tuple[concurrent.futures.Future[Result], float]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        while True:
            try:
                item = next(left)
            except StopIteration:
                break
            except BaseException as error:  # Ctrl-C is one
                problem = error
                break
            occupied = size(item)
            running.append((pool.submit(function, item), occupied))
            held += occupied
            del item  # it is the function's now, and freed with it
            while running and (len(running) > ahead - running[0][0].done() or held > most):
                future, occupied = running.popleft()
                held -= occupied
                yield future.result()
        while running:
            yield running.popleft()[0].result()
        if problem is not None:
            raise problem
    finally:
        del problem  # an error and its frame would keep each other
        pool.shutdown(wait=True, cancel_futures=True)
