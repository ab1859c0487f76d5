"""What the pickles of torch's files name and build: storages, tensors, and records of everything else.

Nothing here imports or calls what a pickle names. A call is either one of the few functions of `KNOWN`, written out
here, or the making of an object of another package's class (a configuration, an enumeration), which becomes an inert
record, or it is refused by its name.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_AXES = 32


class Refused(ValueError):
    """The pickle is not read; the message says why, as the end of a sentence."""


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record(dict[Any, Any]):
    """An object of a class that is not known here: its items if it is a dictionary, and its state."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.state = kind, None


class Storage(NamedTuple):
    """The numbers of one or more tensors: where they lie (`key`), their type, and how many there are.

    `start` is where they begin within those of the key.
    """

    key: str
    dtype: np.dtype
    size: int
    start: int = 0


class TensorSpec(NamedTuple):
    """A tensor: a strided view of a storage. `offset` and `strides` are in elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, data: Any) -> np.ndarray:
        """The tensor, without a copy, from the bytes of its storage's key.

        Raises:
          ValueError: the view does not lie within the storage, or repeats its numbers.
        """
        whole = np.frombuffer(data, np.uint8)
        stored = whole[: len(whole) // self.storage.dtype.itemsize * self.storage.dtype.itemsize]
        stored = stored.view(self.storage.dtype)[self.storage.start :][: self.storage.size]
        values = stored if self.dtype == stored.dtype else stored.view(self.dtype)
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        inside = self.offset >= 0 and min((*self.strides, 0)) >= 0 and last < len(values)
        if not inside or math.prod(self.shape) > len(values) or len(stored) < self.storage.size:
            raise ValueError(
                f"a tensor of shape {self.shape} is larger than what is stored of it, {len(values)} numbers"
            )
        steps = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps, writeable=False)


_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
STORAGES = {Name(module, name) for module in ("torch", "torch.cuda", "torch.storage") for name in _STORAGES}
_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")  # of ml_dtypes


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name) if name in _EXTENDED else name)


def referred(reference: Any) -> Storage | Name:
    """The storage that a persistent id refers to: ("storage", type, key, device, size[, view])."""
    if not isinstance(reference, tuple) or not isinstance(reference[1], Name):
        raise Refused("refers to what is no storage of tensors")
    if reference[0] == "module":  # how old files name the classes of whole models
        return reference[1]
    kind, storage_type, key, _, size, *more = reference
    if kind != "storage" or storage_type not in STORAGES:
        raise Refused(f"refers to {storage_type}, which is no storage of tensors")
    dtype, start = _dtype(_STORAGES[storage_type.name]), 0
    if more and more[0] is not None:  # files of before 2020: a part of a storage
        _, start, size = more[0]
    return Storage(_text(key), dtype, _whole(size), _whole(start))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise Refused("states a size of a tensor that is no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str | int):
        raise Refused("refers to a storage without a name")
    return str(value)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> TensorSpec:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise Refused("builds a tensor from what is no storage")
    if len(shape) > MAX_AXES or len(shape) != len(strides):
        raise Refused(f"builds a tensor of {len(shape)} axes and {len(strides)} strides")
    sizes, steps = tuple(map(_whole, shape)), tuple(map(_whole, strides))
    return TensorSpec(storage, dtype or storage.dtype, _whole(offset), sizes, steps)


def _tensor_v2(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorSpec:
    return _tensor(storage, offset, shape, strides)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> TensorSpec:
    if not isinstance(dtype, Name) or dtype.module != "torch":
        raise Refused("builds a tensor of an unknown type")
    try:
        return _tensor(storage, offset, shape, strides, _dtype(dtype.name))
    except TypeError as error:
        raise Refused(f"builds a tensor of the type {dtype}, which is not known here") from error


def _tensor_with_state(function: Any, _kind: Any, arguments: Any, _state: Any = None) -> Any:
    if not isinstance(function, Name) or function not in _TENSORS or not isinstance(arguments, tuple):
        raise Refused("builds a tensor in a way that is not known here")
    return KNOWN[function](*arguments)


def _first(value: Any, *_: Any) -> Any:
    return value


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """Of OrderedDict, Counter or defaultdict; a list of pairs is how Python 2 wrote them."""
    last = arguments[-1] if arguments else ()
    made: dict[Any, Any] = {}
    for key, value in last.items() if isinstance(last, dict) else last if isinstance(last, list) else ():
        put(made, key, value)
    return made


def _object(kind: Any, *_: Any) -> Record:
    return made(kind)


def _inert(kind: str) -> Callable[..., Record]:
    return lambda *_: Record(kind)


_TENSORS = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
}
_INERT = (  # what is called and does nothing but hold a value
    *((module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("scalar",)),
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *(("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"), ("numpy", "dtype")),
    *(("builtins", name) for name in ("set", "frozenset", "complex", "slice", "range", "bytearray", "object")),
    *(("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(("pathlib._local", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(("argparse", "Namespace"), ("types", "SimpleNamespace"), ("collections", "deque"), ("decimal", "Decimal")),
    *(("fractions", "Fraction"), ("uuid", "UUID"), ("_codecs", "encode"), ("torch", "device")),
    *(("torch.serialization", "_get_layout"), ("torch", "Size")),
)
_MEMBER = Name("builtins", "getattr")  # of an enumeration, by Python 3.11
KNOWN: Mapping[Name, Callable[..., Any]] = {
    **{Name(*name): _inert(".".join(name)) for name in _INERT},
    **_TENSORS,
    Name("torch", "Size"): _first,
    Name("torch._utils", "_rebuild_parameter"): _first,
    Name("torch._utils", "_rebuild_parameter_with_state"): _first,
    Name("torch._tensor", "_rebuild_from_type_v2"): _tensor_with_state,
    Name("collections", "OrderedDict"): _dictionary,
    Name("collections", "defaultdict"): _dictionary,
    Name("collections", "Counter"): _dictionary,
    **{Name("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "double", "bool", "tensor")},
    Name("torch.jit._pickle", "restore_type_tag"): _first,
    **{Name("copyreg", name): _object for name in ("_reconstructor", "__newobj__", "__newobj_ex__")},
}


def called(name: Any, arguments: Any) -> Any:
    """What a call makes, without calling anything but what stands above."""
    if not isinstance(name, Name) or not isinstance(arguments, tuple):
        raise Refused(f"calls a {type(name).__name__}")
    if name in KNOWN:
        try:
            return KNOWN[name](*arguments)
        except TypeError as error:
            raise Refused(f"hands {len(arguments)} values to {name}") from error
    if name == _MEMBER and len(arguments) == 2 and isinstance(arguments[1], str):
        return made(arguments[0])
    return made(name, by_a_call=True)


def made(name: Any, by_a_call: bool = False) -> Record:
    """An object of a class. Python's own classes must be known, and torch's and numpy's if they are called."""
    if not isinstance(name, Name):
        raise Refused(f"makes an object of a {type(name).__name__}")
    package, last = name.module.partition(".")[0], name.name.rpartition(".")[2].lstrip("_")
    known = sys.stdlib_module_names | ({"torch", "numpy"} if by_a_call else set())
    if name in KNOWN or (package not in known and last[:1].isupper()) or package == "__torch__":
        return Record(str(name))
    raise Refused(f"names {name} to be called, which no file of tensors needs")


def put(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Sets an item. Of other keys than plain values the hash could take forever, and no tensor has such a name."""
    if key is None or isinstance(key, str | int | float | bytes):
        target[key] = value
