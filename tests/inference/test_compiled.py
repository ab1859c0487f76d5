"""What programs log when they compile."""

import logging

import numpy as np

from ahs_seg_jax.inference import (
    compiled,
)


def test_compiling_is_logged_with_the_reason(caplog):
    double = compiled.Compiled(lambda params, x, by: x * by, "double", static=("by",))
    with caplog.at_level(logging.DEBUG, "ahs_seg_jax"):
        for size in (3, 3, 5):
            double({}, np.zeros((2, size)), by=2)
    first, second = caplog.messages
    assert first.startswith("compiled double for 2x3 by=2 in ")
    assert first.endswith(": its first use")
    assert "for 2x5" in second
    assert second.endswith("bucket of sizes not used before")
