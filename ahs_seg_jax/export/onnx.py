"""Export as ONNX."""

import contextlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.export.programs import Program


def _try_out(jax2onnx: Any) -> None:
    """Converts a loop over rows, which all models have. Raises ImportError if jax2onnx does not know this JAX."""
    rows = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    try:
        with _quietly():
            jax2onnx.to_onnx(lambda x: jax.lax.scan(lambda total, row: (total + row, total), x[0], x)[1], [rows])
    except Exception as error:  # whatever it stumbles over
        raise ImportError(
            f"jax2onnx {importlib.metadata.version('jax2onnx')} cannot read the programs of JAX {jax.__version__} "
            f"({type(error).__name__}); in an environment with JAX 0.10 it can: pip install 'ahs_seg_jax[onnx]' "
            "'jax<0.11'; or export as StableHLO"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    for library in ("onnx_ir", "jax2onnx"):  # they warn of every shape that is computed, and of absent libraries
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jax2onnx uses what JAX will drop
        yield


def onnx_exporter() -> Callable[[Program, dict[str, np.ndarray]], bytes]:
    """What writes a program with its weights as ONNX. Raises ImportError, which says what to install."""
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("exporting as ONNX needs jax2onnx: pip install 'ahs_seg_jax[onnx]'") from error
    _try_out(jax2onnx)

    def convert(program: Program, leaves: dict[str, np.ndarray]) -> bytes:
        # jax2onnx takes no constraints on dimensions, so what needs them takes one class at a time.
        fixed = lambda shape: (1, *shape[1:]) if program.constraints else shape
        inputs = [jax.ShapeDtypeStruct(fixed(shape), dtype) for shape, dtype in program.inputs.values()]
        weights = jax.tree.map(jnp.asarray, leaves)
        with _quietly():
            converted = jax2onnx.to_onnx(
                lambda *arrays: program.run(weights, *arrays),
                inputs,
                input_names=list(program.inputs),
                output_names=[program.output],
            )
        return converted.SerializeToString()

    return convert
