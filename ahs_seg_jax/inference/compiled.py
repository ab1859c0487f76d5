"""Jitted functions that say when they compile, for what sizes, and why."""

import collections
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

logger = logging.getLogger("ahs_seg_jax")
WORTH_SAYING = 0.5  # seconds: what took less, or came from the cache on disk, is logged at level DEBUG
traces: collections.Counter[str] = collections.Counter()  # how often each function was traced


class Compiled:
    """A jitted function. A call with sizes that it has not seen compiles, which is logged with its time.

    The arguments named in `donate` are overwritten: the caller has no use for them after the call.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, static: tuple[str, ...] = (), donate: tuple[str, ...] = ()
    ):
        self.name = name
        self._this_call = threading.local()  # JAX traces in the thread that calls

        @functools.wraps(function)
        def traced(*args: Any, **options: Any) -> Any:
            traces[name] += 1
            self._this_call.compiled = True
            return function(*args, **options)

        self._jitted = jax.jit(traced, static_argnames=static, donate_argnames=donate)

    def __call__(self, *args: Any, **options: Any) -> Any:
        started, self._this_call.compiled = time.monotonic(), False
        result = self._jitted(*args, **options)
        if self._this_call.compiled:
            self._log(args, options, time.monotonic() - started)
        return result

    def _log(self, args: tuple[Any, ...], options: Mapping[str, Any], seconds: float) -> None:
        # Dictionaries are parameters, whose sizes say nothing that the model's name does not.
        arrays = [
            leaf for arg in args if not isinstance(arg, Mapping) for leaf in jax.tree.leaves(arg) if np.ndim(leaf)
        ]
        sizes = " ".join("x".join(map(str, np.shape(array))) for array in arrays)
        settings = "".join(f" {name}={value}" for name, value in options.items() if isinstance(value, int | str))
        why = "its first use" if traces[self.name] == 1 else "a model, setting or bucket of sizes not used before"
        level = logging.INFO if seconds >= WORTH_SAYING else logging.DEBUG
        logger.log(level, "compiled %s for %s%s in %.1f s: %s", self.name, sizes, settings, seconds, why)
