"""Export as StableHLO, for any runtime that takes it, and for a short loader in Python."""

import importlib.resources

import jax
import numpy as np
from jax import export as jax_export

from ahs_seg_jax.export.programs import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def loader_text() -> str:
    """The loader that goes with every export."""
    return importlib.resources.files("ahs_seg_jax.export").joinpath("loader.py.txt").read_text("utf-8")


def loads_with() -> str:
    """The versions of JAX that can read what this one exports, in words (docs.jax.dev, "Compatibility guarantees")."""
    return f"JAX {jax.__version__} or newer (JAX promises to read an export for six months after it was made)"


def stablehlo(program: Program, leaves: dict[str, np.ndarray]) -> bytes:
    """A program as serialised StableHLO, with its weights as inputs. Raises ImportError, which says what to install."""
    weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    scope = jax_export.SymbolicScope(program.constraints)
    symbolic = lambda shape: jax_export.symbolic_shape(", ".join(map(str, shape)), scope=scope)
    inputs = [jax.ShapeDtypeStruct(symbolic(shape), dtype) for shape, dtype in program.inputs.values()]
    exported = jax_export.export(jax.jit(program.run), platforms=PLATFORMS)(weights, *inputs)
    try:
        return bytes(exported.serialize())
    except ImportError as error:  # JAX writes programs by flatbuffers, which it does not install
        raise ImportError("exporting needs flatbuffers: pip install 'ahs_seg_jax[export]'") from error
