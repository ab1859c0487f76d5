"""One run for each working directory: a second one is refused, but the lock of a dead or preempted run is taken over.

`<workdir>/run.lock` is JSON that says which process of which machine trains there, and a count that its owner raises
every few seconds. On the owner's machine a dead process is noticed at once. From another machine, whose clock may
differ, the lock is watched: if the count stands still for TIMEOUT seconds, its owner is gone.
"""

import json
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any

from etils import epath

from ahs_seg_jax.devices import processes
from ahs_seg_jax.errors import InputError
from ahs_seg_jax.storage import writing

NAME = "run.lock"
BEAT = 5.0  # seconds between two raises of the count
TIMEOUT = 30.0  # seconds without a raise after which an owner on another machine is taken for dead


class WorkdirInUse(InputError):
    """Another process trains in the working directory; the message names it."""


def _start_time(pid: int) -> str | None:
    """When a process of this machine started, which tells it from a later one of the same number; None without one."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _machine() -> str:
    """A name that no other machine, and no other container on this machine, has."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(source) if source.endswith("pid") else pathlib.Path(source).read_text().strip())
        except OSError:
            parts.append("")
    return " ".join(parts)


class WorkdirLock:
    """Holds the lock of a working directory while this context is open; does nothing where there is nothing to guard.

    Raises WorkdirInUse on entry if another process holds it.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self._path = epath.Path(workdir) / NAME
        pid = os.getpid()
        self._owner = {
            "host": socket.gethostname(),
            "pid": pid,
            "started": _start_time(pid),
            "machine": _machine(),
            "token": uuid.uuid4().hex,
        }
        self._beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "WorkdirLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        found = self._read()
        if found is not None and self._alive(found):
            raise WorkdirInUse(
                f"{self._path.parent} is being trained in by process {found['pid']} on {found['host']}; wait for its "
                f"end, stop it, or choose another workdir (if it is certainly gone, delete {self._path})"
            )
        self._write()
        if found is not None:
            processes.log(f"the run of process {found['pid']} on {found['host']} is gone; taking over its workdir")
        mine = self._read()
        if mine is None or mine["token"] != self._owner["token"]:  # two processes took over at once; one has won
            raise WorkdirInUse(f"{self._path.parent} was taken by another process just now; choose another workdir")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        found = self._read()
        if found is not None and found["token"] == self._owner["token"]:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):  # absent, or torn by a death in the middle of writing
            return None
        return found if isinstance(found, dict) and found.keys() >= self._owner.keys() else None

    def _write(self) -> None:
        writing.write_text(self._path, json.dumps({**self._owner, "beats": self._beats}))

    def _alive(self, found: dict[str, Any]) -> bool:
        if found["machine"] == self._owner["machine"] and found["started"] is not None:
            return _start_time(found["pid"]) == found["started"]
        processes.log(f"{self._path} names {found['host']}; watching for {TIMEOUT:g} s whether that run is alive")
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            time.sleep(min(1.0, TIMEOUT / 10))
            if self._read() != found:
                return True
        return False

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._beats += 1
            try:
                self._write()
            except Exception as error:  # a full disk or a vanished bucket must not stop the training
                processes.log(f"WARNING: {self._path} cannot be renewed: {error}")
