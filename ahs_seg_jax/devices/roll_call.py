"""Before the processes of a run join: whether all of them are there, and which one is missing.

JAX's own coordination service ends a process that waits in vain without saying for whom. So the processes first meet at
the same address by themselves: every process sends its number to process 0, which answers when it has all numbers, or
says which are missing.
"""

import contextlib
import socket
import time

from ahs_seg_jax.errors import LostProcess


def names(processes: list[int]) -> str:
    """`process 1`, `processes 1, 3`."""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(str(process) for process in processes)}"


def roll_call(address: str, count: int, number: int, seconds: float) -> None:
    """Returns when all `count` processes have called at `address` (host:port of process 0).

    Raises LostProcess, in the processes that did call, if that takes more than `seconds`.
    """
    host, _, port = address.rpartition(":")
    if number == 0:
        _wait_for_all(int(port), count, seconds)
    else:
        _call(host.strip("[]"), int(port), number, seconds)


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _wait_for_all(port: int, count: int, seconds: float) -> None:
    callers: dict[int, socket.socket] = {}
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        while len(callers) < count - 1 and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError):  # out of time, or somebody else's connection
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5.0)
                callers[int(connection.recv(16))] = connection
        absent = [process for process in range(1, count) if process not in callers]
        answer = f"{names(absent)} of {count} did not come within {seconds:g} s" if absent else "all"
        for connection in callers.values():
            with contextlib.suppress(OSError):
                connection.sendall(answer.encode())
    if absent:
        raise LostProcess(f"{answer}; look at the output there, then start all processes again")


def _call(host: str, port: int, number: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5.0)) as connection:
                connection.sendall(str(number).encode())
                connection.settimeout(left + 10.0)  # process 0 may have begun to wait later
                answer = connection.recv(1000).decode()
        except OSError:
            time.sleep(0.2)
            continue
        if answer == "all":
            return
        if answer:
            raise LostProcess(f"{answer}; look at the output there, then start all processes again")
        time.sleep(0.2)  # process 0 went away: it may have been a predecessor
    raise LostProcess(
        f"process 0 did not answer at {host}:{port} within {seconds:g} s; look at its output and whether that port is "
        "open, then start all processes again"
    )
