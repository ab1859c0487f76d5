"""Several processes of one run: how they join, that they agree before the first step, and noticing one that is lost.

All of them run the same command and meet at the coordination service of process 0. What they tell each other here goes
through that service and not through the devices, so that a process that is missing can be named.
"""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from jax._src import clusters
from jax._src import distributed as jax_distributed

from ahs_seg_jax.devices.roll_call import names, roll_call
from ahs_seg_jax.errors import Ending, InputError, LostProcess

TIMEOUT = 120.0  # seconds without a sign of life, after which a process is lost, unless `join` is told another time

_timeout = TIMEOUT
_exchanges = 0  # how many rounds of `exchange` there were; all processes make the same ones in the same order
_told = ""  # where the coordination service has this process's text of the last round


def join(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool = False,
    timeout: float = TIMEOUT,
) -> None:
    """Joins the other processes, before anything touches a device. Returns at once if no argument names any.

    `coordinator` is host:port of process 0. With `detect`, what is not given is taken from the environment (Cloud TPU
    pods, SLURM, Open MPI). `timeout`, in seconds, holds for the whole run.

    Raises InputError for arguments that do not go together, LostProcess if some process does not come in time.
    """
    global _timeout  # noqa: PLW0603
    given: tuple[Any, Any, Any] = (coordinator, num_processes, process_id)
    flag_names = ("--coordinator", "--num_processes", "--process_id")
    missing = [name for name, value in zip(flag_names, given, strict=True) if value is None]
    if len(missing) == 3 and not detect:
        return
    if missing and not detect:
        raise InputError(f"{', '.join(missing)} must be given too (or --distributed, where the environment knows them)")
    _check(coordinator, num_processes, process_id, timeout)
    _timeout = float(timeout)
    address, count, number, local = _of_environment(given, _timeout) if missing else (*given, None)
    if count > 1:
        roll_call(address, count, number, _timeout)
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=count,
        process_id=number,
        local_device_ids=local,
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, round(_timeout)),
        # `Watch` notices earlier, and names the process.
        heartbeat_timeout_seconds=max(20, round(4 * _timeout)),
        shutdown_timeout_seconds=max(1, round(_timeout)),
    )


def _check(coordinator: str | None, count: int | None, number: int | None, timeout: float) -> None:
    """Raises InputError for values that no run has."""
    if not 1 <= timeout <= 10**6:  # nor NaN, which no comparison holds for
        raise InputError(f"--process_timeout is {timeout}; it must be a number of seconds from 1 to {10**6}")
    if coordinator is not None and not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise InputError(f"--coordinator is {coordinator!r}; it must be host:port of process 0, such as 10.0.0.2:1234")
    if count is not None and count < 1:
        raise InputError(f"--num_processes is {count}; it must be at least 1")
    if number is not None and not 0 <= number < (count or number + 1):
        raise InputError(f"--process_id is {number}; processes are counted from 0 to {(count or 1) - 1}")


def _of_environment(given: tuple[Any, Any, Any], seconds: float) -> tuple[str, int, int, Any]:
    """(coordinator, number of processes, this one's number, its devices), as far as they are not given."""
    try:
        detect: Any = clusters.ClusterEnv.auto_detect_unset_distributed_params
        found = detect(*given, None, None, round(seconds))
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        raise InputError(f"--distributed: what the environment says is incomplete: {error}") from error
    address, count, number, local = found
    if address is None or count is None or number is None:
        raise InputError(
            "--distributed, but this is no Cloud TPU, SLURM or Open MPI job that JAX knows; give --coordinator, "
            "--num_processes and --process_id"
        )
    return address, count, number, local


def exchange(what: str, text: str, seconds: float | None = None) -> list[str]:
    """The texts of all processes, in their order. Raises LostProcess, naming those that are not there in time.

    Unless `seconds` says another time it is long: processes read at different rates, and `Watch` notices a dead one.
    """
    if jax_distributed.global_state.client is None:
        return [text]
    global _exchanges, _told  # noqa: PLW0603
    _exchanges += 1
    client, count = jax_distributed.global_state.client, jax_distributed.global_state.num_processes
    seconds = 10 * _timeout if seconds is None else seconds
    name, end = f"ahs_seg_jax/{_exchanges}/{what}", time.monotonic() + seconds
    own = f"{name}/{jax_distributed.global_state.process_id}"
    client.key_value_set(own, text)
    found: dict[int, str] = {}
    for process in range(count):
        left = max(0.1, end - time.monotonic())
        try:
            found[process] = client.blocking_key_value_get(f"{name}/{process}", round(left * 1000))
        except jax.errors.JaxRuntimeError:
            continue
    absent = [process for process in range(count) if process not in found]
    if absent:
        raise LostProcess(
            f"{names(absent)} of {count} did not come to {what!r} within {seconds:g} s; look at "
            "its output, then start all processes again"
        )
    # Who came to this round has read the last one. Every checkpoint is a round, and process 0 would keep all its texts.
    if _told:
        client.key_value_delete(_told)
    _told = own
    return [found[process] for process in range(count)]


def agree(what: str, facts: Mapping[str, Any]) -> None:
    """Raises InputError if another process does not hold the same facts, naming what differs where."""
    mine = {"host": socket.gethostname(), "facts": json.loads(json.dumps(dict(facts)))}
    all_of_them = [json.loads(text) for text in exchange(what, json.dumps(mine))]
    first = all_of_them[0]["facts"]
    found = [
        f"  - process {number} on {other['host']}: {key} is {theirs.get(key)!r}, process 0 has {first.get(key)!r}"
        for number, other in enumerate(all_of_them)
        for theirs in (other["facts"],)
        for key in {**first, **theirs}
        if theirs.get(key) != first.get(key)
    ]
    if found:
        raise InputError("\n".join(["the processes do not hold the same, so they cannot train together:", *found]))


def together(what: str, action: Callable[[], Any]) -> None:
    """Does `action` in every process. If one of them refuses it with an InputError, all of them raise one."""
    refused = ""
    try:
        action()
    except InputError as error:
        refused = str(error)
    for number, text in enumerate(exchange(what, refused)):
        if text:
            raise InputError(text if number == jax_distributed.global_state.process_id else f"process {number}: {text}")


class Watch:
    """While this context is open, ends this process when another one is lost, with a message that names it.

    Every process shows a sign of life at regular intervals. When an operation across processes fails, the failure is
    held back until it is known who is missing. Does nothing in a run of one process.
    """

    def __init__(self, seconds: float | None = None):
        self._seconds = _timeout if seconds is None else seconds
        self._client: Any = jax_distributed.global_state.client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        if self._client is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._client is None:
            return
        if kind is not None and issubclass(kind, jax.errors.JaxRuntimeError):
            self._thread.join(1.5 * self._seconds + 5.0)  # ends this process if another one is lost
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        beat, period = 0, min(5.0, self._seconds / 5)
        seen: dict[str, tuple[str, float]] = {}
        me, heard = str(jax_distributed.global_state.process_id), time.monotonic()
        hosts: dict[str, str] = {}
        while not self._stop.wait(period):
            beat, now = beat + 1, time.monotonic()
            try:
                sign = json.dumps([beat, socket.gethostname()])
                self._client.key_value_set(f"ahs_seg_jax/alive/{me}", sign, allow_overwrite=True)
                found = self._client.key_value_dir_get("ahs_seg_jax/alive/")
                heard = now
            except jax.errors.JaxRuntimeError:
                found = []
                if now - heard > self._seconds:
                    self._end("process 0, which coordinates the run,")
            for key, sign in found:
                number = key.rsplit("/", 1)[1]
                hosts[number] = json.loads(sign)[1]
                if seen.get(number, ("", 0.0))[0] != sign:
                    seen[number] = (sign, now)
            for number, (_, last) in seen.items():
                if found and number != me and now - last > self._seconds:
                    self._end(f"process {number} on {hosts[number]}")

    def _end(self, who: str) -> NoReturn:
        print(
            f"error: {who} has shown no sign of life for {self._seconds:g} s. The checkpoints are kept: start all "
            "processes again with the same command and --workdir to continue from the last one",
            file=sys.stderr,
            flush=True,
        )
        # The main thread may wait for the lost process for ever, and cannot be interrupted.
        os._exit(Ending.PREEMPTED)
