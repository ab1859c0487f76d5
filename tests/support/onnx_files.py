"""Tests of exports as ONNX."""

from typing import Any

import pytest

from ahs_seg_jax.export import onnx


def runtime() -> Any:
    """The library that runs ONNX; the test is skipped where it is not installed, or jax2onnx does not know this JAX."""
    library = pytest.importorskip("onnxruntime")
    try:
        onnx.onnx_exporter()
    except ImportError as error:
        pytest.skip(str(error))
    return library
