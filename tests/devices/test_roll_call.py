"""Processes that meet before they join: all of them go on, or those that are there name the one that is missing."""

import socket
import threading

import pytest

from ahs_seg_jax.devices.roll_call import names, roll_call
from ahs_seg_jax.errors import LostProcess
from tests.support.processes import free_port


def called(count: int, present: list[int], seconds: float, port: int | None = None) -> dict[int, str]:
    """What each process that is there ends with: "" or the message of LostProcess."""
    address, ended = f"127.0.0.1:{port or free_port()}", {}

    def one(number: int) -> None:
        try:
            roll_call(address, count, number, seconds)
            ended[number] = ""
        except LostProcess as error:
            ended[number] = str(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in present]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_all_come():
    port = free_port()
    assert called(3, [2, 0, 1], 30.0, port) == {0: "", 1: "", 2: ""}
    with socket.create_server(("", port)):  # free again, for the service that follows
        pass


def test_those_that_are_missing_are_named_to_those_that_are_there():
    ended = called(4, [0, 2], 2.0)
    assert set(ended) == {0, 2}
    assert all(text.startswith("processes 1, 3 of 4 did not come within 2 s; look at") for text in ended.values())


def test_first_process_that_is_missing_is_named():
    assert "process 0 did not answer at 127.0.0.1:" in called(2, [1], 1.0)[1]


def test_names():
    assert (names([3]), names([1, 3])) == ("process 3", "processes 1, 3")


def test_address_of_nothing_is_refused_in_time():
    with pytest.raises(LostProcess, match="did not answer at no-such-host"):
        roll_call("no-such-host.invalid:1", 2, 1, 0.5)
