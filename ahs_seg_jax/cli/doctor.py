"""`ahs-seg doctor`: what a bug report needs, and whether a small model still does what it should."""

import os
import platform
import time

from ahs_seg_jax import threads
from ahs_seg_jax.cli import compilation_cache, options
from ahs_seg_jax.versions import OPTIONAL, versions

TOLERANCE = 0.02  # of the share of right pixels: other processors round differently


def doctor() -> None:
    """Versions, devices, a self-test: for bug reports."""
    options.finish(run)


def run() -> int:
    """Prints the report; returns 0 if the self-test passes."""
    import jax

    print(f"system     {platform.platform()}, {threads.cores()} of {os.cpu_count()} processors")
    print("versions   " + ", ".join(f"{name} {version}" for name, version in versions(OPTIONAL).items()))
    print(f"memory     {_memory()}")
    print(f"cache      {os.environ.get('JAX_COMPILATION_CACHE_DIR') or f'off ({compilation_cache.VARIABLE})'}")
    for device in jax.devices():
        stats = device.memory_stats() or {}
        size = f", {stats['bytes_limit'] / 1e9:.1f} GB" if "bytes_limit" in stats else ""
        print(f"device     {device.id}: {device.platform}, {device.device_kind}{size}")
    return _self_test()


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) / 1e9 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return "not known on this system"
    return f"{total:.1f} GB, {free:.1f} GB unused"


def _self_test() -> int:
    from ahs_seg_jax.checkpoints import packaged
    from ahs_seg_jax.config import ScenesConfig
    from ahs_seg_jax.data.scenes import ScenesSource
    from ahs_seg_jax.errors import CheckpointError
    from ahs_seg_jax.segmenter import Segmenter

    source = ScenesSource(ScenesConfig(val_images=1), "val")
    example = source[0]
    started = time.monotonic()
    try:
        segmenter = Segmenter.from_pretrained(packaged.TINY)
        expected = packaged.load_tiny().manifest["self_test_accuracy"]
    except CheckpointError as error:
        print(f"self-test  FAILED: {error}")
        return 1
    names = source.vocabulary.names
    result = segmenter(example["image"], names)
    first, again = time.monotonic() - started, time.monotonic()
    segmenter(example["image"][:, ::-1], names)
    again = time.monotonic() - again
    right = float((result.labels == example["label"]).mean())
    passed = abs(right - expected) <= TOLERANCE
    print(
        f"self-test  {'passed' if passed else 'FAILED'}: {100 * right:.1f} % of a scene's pixels right, "
        f"{100 * expected:.1f} % expected; {first:.1f} s with start, then {again:.3f} s"
    )
    return 0 if passed else 1
