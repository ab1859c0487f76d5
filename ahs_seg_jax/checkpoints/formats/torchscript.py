"""TorchScript archives (OpenAI's CLIP files) read as archives of tensors: no torch, and no code from the file runs.

Such a file is a zip with a pickle `data.pkl` (the modules' attributes), raw tensors in `data/<key>`, and code that is
never looked at. The unpickler below knows only what such a pickle needs: tensors become `TensorSpec`, modules become
inert records, and any other name in the pickle is refused.
"""

import dataclasses
import io
import itertools
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ahs_seg_jax.errors import CheckpointError

MAX_DEPTH = 64  # of nested modules; deeper means a malformed file
MAX_NAMES = 100_000  # of attributes on all ways to them; modules that share children have very many
MAX_PICKLE = 2**26  # bytes; a CLIP's is below one megabyte

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Where a tensor lies in the archive: strided view of a storage, in elements."""

    key: str
    dtype: np.dtype
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, data: bytes) -> np.ndarray:
        """The tensor, from the bytes of its storage.

        Raises:
          ValueError: the view does not lie within the storage.
        """
        storage = np.frombuffer(data, self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        inside = self.offset >= 0 and min((*self.strides, 1)) >= 0 and last < len(storage)
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        if not inside or math.prod(self.shape) > len(storage) or len(storage) < self.storage_size:
            raise ValueError(f"a tensor of shape {self.shape} does not fit its storage of {len(storage)} elements")
        bytes_strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, bytes_strides, writeable=False)


class _Sealed:
    """What the pickle may name or call. It holds no state, and the pickle cannot give it any."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle tries to change what is not its own")


class _StorageType(_Sealed):
    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Function(_Sealed):
    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Module:
    """A module of the archive: its attributes by name."""

    __slots__ = ("attributes",)

    def __new__(cls, *_: Any) -> "_Module":
        module = super().__new__(cls)
        module.attributes = {}
        return module

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a module's state is a {type(state).__name__}, not a dictionary")
        self.attributes = state


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> TensorSpec:
    key, dtype, size = storage
    return TensorSpec(key, dtype, int(size), int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _first(value: Any, *_: Any) -> Any:
    return value


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows tensors, inert modules and typed lists; refuses every other name."""

    def __init__(self, file: Any):
        super().__init__(file)
        self._module_class = type("ScriptModule", (_Module,), {"__slots__": ()})  # a fresh one for each file
        self._known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
            ("torch._utils", "_rebuild_parameter"): _Function(_first),
            ("torch.jit._pickle", "restore_type_tag"): _Function(_first),
        }
        for kind in ("int", "double", "bool", "tensor"):
            self._known["torch.jit._pickle", f"build_{kind}list"] = _Function(_first)
        for name, dtype in _STORAGES.items():
            self._known["torch", name] = _StorageType(dtype)

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module_class
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no archive of tensors needs")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype, int]:
        kind, storage_type, key, _, size = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        return str(key), storage_type.dtype, int(size)


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """True for a TorchScript archive, False for a plain torch pickle in a zip."""
    names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def tensor_specs(archive: zipfile.ZipFile, where: str) -> dict[str, TensorSpec]:
    """Dotted name -> where the tensor lies, for every tensor attribute of the modules.

    Raises:
      CheckpointError: the pickle is malformed, or names anything that an archive of tensors does not need.
    """
    root = record_root(archive)
    if (size := archive.getinfo(f"{root}/data.pkl").file_size) > MAX_PICKLE:
        raise CheckpointError(f"{where} is refused: its pickle has {size} bytes, a model's has at most {MAX_PICKLE}")
    try:
        module = _RestrictedUnpickler(io.BytesIO(archive.read(f"{root}/data.pkl"))).load()
    except Exception as error:  # a malformed pickle can raise anything
        raise CheckpointError(
            f"{where} is refused: its pickle is not a plain archive of tensors ({type(error).__name__}: {error}). "
            "Nothing of it was executed"
        ) from error
    specs: dict[str, TensorSpec] = {}
    _collect(module, "", 0, specs, where, itertools.count())
    return specs


def record_root(archive: zipfile.ZipFile) -> str:
    """The folder inside the archive that holds data.pkl."""
    return next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")


def _collect(
    value: Any, name: str, depth: int, specs: dict[str, TensorSpec], where: str, names: "itertools.count[int]"
) -> None:
    if next(names) > MAX_NAMES:
        raise CheckpointError(f"{where} is refused: its modules have more than {MAX_NAMES} attributes")
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{where}: its modules nest deeper than {MAX_DEPTH}; the file is malformed")
    if isinstance(value, TensorSpec):
        specs[name] = value
    elif isinstance(value, _Module):
        for key, child in value.attributes.items():
            _collect(child, f"{name}.{key}" if name else str(key), depth + 1, specs, where, names)
