"""Export as ONNX."""

import logging
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.export.programs import Program


def onnx_exporter() -> Callable[[Program, dict[str, np.ndarray]], bytes]:
    """What writes a program with its weights as ONNX. Raises ImportError, which says what to install."""
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("exporting as ONNX needs jax2onnx: pip install 'ahs_seg_jax[onnx]'") from error

    def convert(program: Program, leaves: dict[str, np.ndarray]) -> bytes:
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of every shape that is computed
        # jax2onnx takes no constraints on dimensions, so what needs them takes one class at a time.
        fixed = lambda shape: (1, *shape[1:]) if program.constraints else shape
        inputs = [jax.ShapeDtypeStruct(fixed(shape), dtype) for shape, dtype in program.inputs.values()]
        weights = jax.tree.map(jnp.asarray, leaves)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it uses what JAX will drop
            converted = jax2onnx.to_onnx(
                lambda *arrays: program.run(weights, *arrays),
                inputs,
                input_names=list(program.inputs),
                output_names=[program.output],
            )
        return converted.SerializeToString()

    return convert
