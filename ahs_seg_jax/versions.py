"""Versions of what the numbers depend on, and the processor, for results files and checkpoints."""

import hashlib
import pathlib
import platform
from collections.abc import Sequence

__version__ = "0.2.0"

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "pillow", "safetensors", "torch")
OPTIONAL = ("gcsfs", "gradio", "libtpu", "onnxruntime", "rasterio")  # no number depends on them: for reports of bugs


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Name -> version of Python, of this program and of the packages among `PACKAGES` and `more` that are installed."""
    import importlib.metadata  # only here: it takes longer to import than the rest of `import ahs_seg_jax`

    found = {"python": platform.python_version(), "ahs_seg_jax": __version__}
    for package in (*PACKAGES, *more):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def code_hash() -> str:
    """Hash of this package's source files: tells one state of the code from another."""
    digest, root = hashlib.sha256(), pathlib.Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
