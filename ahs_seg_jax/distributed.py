"""Several processes of one run: how they join, that they agree before the first step, and noticing one that is lost.

All of them run the same command. They meet at the coordination service of process 0, by flags
(`--coordinator=host:port --num_processes=4 --process_id=1`) or, with `--distributed`, by what the environment says (Cloud
TPU pods, SLURM, Open MPI). What they tell each other here goes through that service and not through the devices, so that a
process that is missing can be named.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from absl import flags
from jax._src import clusters  # no public interface: what the environment says,
from jax._src import distributed as jax_distributed  # and the service's table of keys

from ahs_seg_jax.config import InputError
from ahs_seg_jax.resume import Ending
from ahs_seg_jax.roll_call import LostProcess, names, roll_call

_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for a run of several processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes take part in the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several processes, as Cloud TPU, SLURM or Open MPI say.")
_TIMEOUT = flags.DEFINE_float(
    "process_timeout", 120.0, "Seconds without a sign of life, after which a process is lost."
)

_exchanges = 0  # how many rounds of `exchange` there were; all processes make the same ones in the same order


def _timeout() -> float:
    return float(_TIMEOUT.value if flags.FLAGS.is_parsed() else _TIMEOUT.default)


def join() -> None:
    """Joins the other processes, if the flags say that there are any; before anything touches a device.

    Raises InputError for flags that do not go together, LostProcess if some process does not come in time.
    """
    if not flags.FLAGS.is_parsed():  # used as a library
        return
    given: tuple[Any, Any, Any] = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    flag_names = ("--coordinator", "--num_processes", "--process_id")
    missing = [name for name, value in zip(flag_names, given, strict=True) if value is None]
    if len(missing) == 3 and not _DISTRIBUTED.value:
        return
    if missing and not _DISTRIBUTED.value:
        raise InputError(f"{', '.join(missing)} must be given too (or --distributed, where the environment knows them)")
    seconds = float(_TIMEOUT.value)
    address, count, number, local = _of_environment(given, seconds) if missing else (*given, None)
    if count > 1:
        roll_call(address, count, number, seconds)
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=count,
        process_id=number,
        local_device_ids=local,
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, round(seconds)),
        # `Watch` notices earlier, and names the process.
        heartbeat_timeout_seconds=max(20, round(4 * seconds)),
        shutdown_timeout_seconds=max(1, round(seconds)),
    )


def _of_environment(given: tuple[Any, Any, Any], seconds: float) -> tuple[str, int, int, Any]:
    """(coordinator, number of processes, this one's number, its devices), as far as the flags do not say them."""
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

    The time is long unless it is given: processes may read at different rates, and `Watch` notices a dead one.
    """
    if jax_distributed.global_state.client is None:
        return [text]
    global _exchanges  # noqa: PLW0603
    _exchanges += 1
    client, count = jax_distributed.global_state.client, jax_distributed.global_state.num_processes
    seconds = 10 * _timeout() if seconds is None else seconds
    name, end = f"ahs_seg_jax/{_exchanges}/{what}", time.monotonic() + seconds
    client.key_value_set(f"{name}/{jax_distributed.global_state.process_id}", text)
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
    return [found[process] for process in range(count)]


def agree(what: str, facts: Mapping[str, Any]) -> None:
    """Raises InputError if another process does not hold the same facts, naming what differs where."""
    mine = {"host": socket.gethostname(), "facts": json.loads(json.dumps(dict(facts)))}
    all_of_them = [json.loads(text) for text in exchange(what, json.dumps(mine))]
    first = all_of_them[0]["facts"]
    found = [
        f"  - process {number} on {other['host']}: {key} is {other['facts'].get(key)!r}, process 0 has {first.get(key)!r}"
        for number, other in enumerate(all_of_them)
        for key in {**first, **other["facts"]}
        if other["facts"].get(key) != first.get(key)
    ]
    if found:
        raise InputError("\n".join(["the processes do not hold the same, so they cannot train together:", *found]))


def together(what: str, action: Callable[[], Any]) -> None:
    """Does `action` in this process. If it is refused in any of them, raises InputError in all of them."""
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

    Every process shows a sign of life now and then. When an operation across processes fails, the failure is held back
    until it is known who is missing. Does nothing in a run of one process.
    """

    def __init__(self, seconds: float | None = None):
        self._seconds = _timeout() if seconds is None else seconds
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
