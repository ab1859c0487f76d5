"""Freed memory is the system's again, whichever threads had it."""

import pathlib
import platform
import subprocess
import sys

import pytest

CODE = """
import sys, threading
from ahs_seg_jax.devices.host_memory import return_freed_memory
if sys.argv[1] == "return":
    return_freed_memory()
import pathlib
import numpy as np

kept, barrier = [], threading.Barrier(8)

def work(number):
    random = np.random.default_rng(number)
    blocks = [np.ones(int(random.integers(2_000, 100_000)), np.uint8) for _ in range(800)]
    kept.append(blocks[::100])  # so that what lies between is a hole
    barrier.wait()

threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
status = pathlib.Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmSize")))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not pathlib.Path("/proc/self/status").exists(), reason="glibc on Linux"
)
def test_threads_share_two_arenas():
    sizes = []
    for how in ("return", "keep"):
        done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        sizes.append(int(done.stdout.split()[-1]) * 1024)
    # Each arena reserves 64 MiB of addresses; eight threads would have up to one each.
    assert sizes[1] - sizes[0] > 64 * 2**20
