"""The machine: what it is, and how fast its matrix products and its memory are by measurement."""

import functools
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax import threads, versions

MATRIX_SIDE = {"cpu": 2048}
MATRIX_SIDE_ELSEWHERE = 8192
COPY_BYTES = {"cpu": 128 * 2**20}
COPY_BYTES_ELSEWHERE = 2 * 2**30
CEILING_TRIES = 5


def describe() -> dict[str, Any]:
    """Devices, processors, memory and system, for the results file."""
    device = jax.devices()[0]
    return {
        "platform": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": versions.processor(),
        "cores": threads.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def best_seconds(call: Callable[[], Any], tries: int = CEILING_TRIES) -> float:
    """Seconds of the fastest of `tries` calls, after one that does not count."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def ceiling(dtype: str) -> dict[str, float]:
    """`flops_per_second` of one large matrix product in this dtype, and `bytes_per_second` of a large copy.

    float32 means float32, as in the model: on accelerators at full precision.
    """
    backend = jax.default_backend()
    side = MATRIX_SIDE.get(backend, MATRIX_SIDE_ELSEWHERE)
    precision = "highest" if dtype == "float32" else "default"
    product = jax.jit(functools.partial(jnp.matmul, precision=precision))
    a = jnp.ones((side, side), dtype)
    x = jnp.zeros(COPY_BYTES.get(backend, COPY_BYTES_ELSEWHERE) // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return {
        "flops_per_second": 2.0 * side**3 / best_seconds(lambda: product(a, a)),
        "bytes_per_second": 2.0 * x.nbytes / best_seconds(lambda: copy(x)),
    }


def peak_device_bytes() -> int | None:
    """The most memory in use at once on any device; None where the devices do not tell (a CPU)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if one and "peak_bytes_in_use" in one]
    return max(peaks) if peaks else None
