"""Files of torch (`.pth`, `.pt`, `.bin`), read without torch: zip archives, TorchScript archives, and older streams.

The file is mapped into memory, and a tensor's numbers are read when it is asked for. So neither an optimiser's state
nor anything else that a training program put beside the weights is read. `pickles` reads the pickles as data.
"""

import functools
import io
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.formats import pickles
from ahs_seg_jax.checkpoints.formats.tensor_file import CONFIG_KEY, LazyTensor, TensorFile, parse_config
from ahs_seg_jax.checkpoints.formats.torch_objects import Record, Refused, Storage, TensorSpec
from ahs_seg_jax.errors import CheckpointError, reason

STATE_KEYS = ("model", "state_dict", "model_state_dict", "module")  # where training programs put the tensors
TORCHSCRIPT = "TorchScript archive"
MAX_DEPTH = 64  # of nested modules; deeper means a malformed file
MAX_NAMES = 100_000  # of attributes on all ways to them: modules that share children have very many
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which the older streams begin

Bytes = Callable[[str], np.ndarray]  # a storage's key -> its bytes


def open_zip(path: pathlib.Path, archive: zipfile.ZipFile) -> TensorFile:
    """A zip archive that torch wrote, TorchScript or not. Raises CheckpointError if it is not plainly that."""
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
    script = _is_torchscript(archive)
    if (size := archive.getinfo(f"{root}/data.pkl").file_size) > pickles.MAX_BYTES:
        raise CheckpointError(
            f"{path} is refused: its pickle has {size} bytes, a model's has at most {pickles.MAX_BYTES}"
        )
    records = _Records(path, archive)
    if f"{root}/byteorder" in archive.namelist() and records.read(f"{root}/byteorder").tobytes() != b"little":
        raise CheckpointError(f"{path} was written on a machine of another byte order; save it again on this one")
    loaded = _unpickled(path, io.BytesIO(records.read(f"{root}/data.pkl").tobytes()), known_only=script)
    stored = lambda key: records.read(f"{root}/data/{key}")

    if script:
        specs: dict[str, TensorSpec] = {}
        if (found := _attributes(loaded, str(path), {})) > MAX_NAMES:
            raise CheckpointError(
                f"{path} is refused: its modules have {found} attributes, a model has at most {MAX_NAMES}"
            )
        _collect(loaded, "", specs)
        return TensorFile(str(path), TORCHSCRIPT, (path,), _tensors(path, specs, stored))
    return _of_dictionary(path, loaded, stored)


def open_stream(path: pathlib.Path) -> TensorFile:
    """A file of the format that torch wrote before 2020: five pickles, then the storages.

    Raises CheckpointError if it is not plainly that, or is cut off.
    """
    raw = mapped(path)
    head = io.BytesIO(raw[: pickles.MAX_BYTES].tobytes())
    if _unpickled(path, head) != _MAGIC:
        raise CheckpointError(f"{path} is a Python pickle, but no file of torch; save the state dict with torch.save")
    storages: list[Storage] = []
    protocol, system, loaded = (_unpickled(path, head, storages=storages) for _ in range(3))
    if protocol != _PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{path} is of another version of torch's format or byte order; save it again with torch")
    keys = _unpickled(path, head)
    places = _places(path, raw, head.tell(), keys, {storage.key: storage.dtype.itemsize for storage in storages})
    return _of_dictionary(path, loaded, lambda key: places[key])


def _places(
    path: pathlib.Path, raw: np.ndarray, start: int, keys: Any, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Key -> bytes of the storages that follow the pickles, each behind the number of its elements."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in sizes for key in keys):
        raise CheckpointError(f"damaged: {path} has a list of storages that are not those of its tensors")
    places = {}
    for key in keys:
        count = int.from_bytes(raw[start : start + 8].tobytes(), "little", signed=True)
        start, end = start + 8, start + 8 + count * sizes[key]
        if count < 0 or end > len(raw):
            raise CheckpointError(f"damaged: {path} ends before its last tensor does; download it again")
        places[key] = raw[start:end]
        start = end
    return places


def _of_dictionary(path: pathlib.Path, loaded: Any, stored: Bytes) -> TensorFile:
    """The tensors of a state dict, or of a training program's dictionary that holds one."""
    if not isinstance(loaded, dict) or (isinstance(loaded, Record) and not loaded):
        kind = loaded.kind if isinstance(loaded, Record) else type(loaded).__name__
        raise CheckpointError(
            f"{path} holds an object of {kind} where a dictionary of tensors is expected; save its state_dict()"
        )
    state = next((loaded[key] for key in STATE_KEYS if _has_tensors(loaded.get(key))), loaded)
    specs = {str(name): spec for name, spec in state.items() if isinstance(spec, TensorSpec)}
    for name, spec in specs.items():  # sizes are taken from the shapes before any tensor is read
        if math.prod(spec.shape) * spec.dtype.itemsize > spec.storage.size * spec.storage.dtype.itemsize:
            raise CheckpointError(f"{path} is refused: its tensor {name} is larger than what is stored of it")
    config = parse_config(loaded.get(CONFIG_KEY), path)
    return TensorFile(str(path), "torch pickle", (path,), _tensors(path, specs, stored), config)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, TensorSpec) for item in value.values())


def _tensors(path: pathlib.Path, specs: Mapping[str, TensorSpec], stored: Bytes) -> dict[str, LazyTensor]:
    def load(name: str, spec: TensorSpec) -> np.ndarray:
        try:
            return spec.view(stored(spec.storage.key))
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"damaged: {path}, its tensor {name}: {error}; download it again") from error

    return {
        name: LazyTensor(spec.shape, spec.dtype.name, functools.partial(load, name, spec))
        for name, spec in specs.items()
    }


def _unpickled(
    path: pathlib.Path, data: io.BytesIO, known_only: bool = False, storages: list[Storage] | None = None
) -> Any:
    try:
        return pickles.loads(data, known_only, storages)
    except Refused as error:
        raise CheckpointError(f"{path} is refused: its pickle {error}. Nothing of it was executed") from error


def mapped(path: pathlib.Path) -> np.ndarray:
    """The bytes of a file that is not empty, read as they are used."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def _is_torchscript(archive: zipfile.ZipFile) -> bool:
    names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def _attributes(value: Any, where: str, known: dict[int, int], depth: int = 0) -> int:
    """How many names `_collect` will visit. Each module is visited once, however many others share it.

    Raises CheckpointError for modules that nest deeper than any model's, or without end.
    """
    if not isinstance(value, Record) or not isinstance(value.state, dict):
        return 1
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{where}: its modules nest deeper than {MAX_DEPTH}; the file is malformed")
    if id(value) not in known:
        known[id(value)] = 1 + sum(_attributes(child, where, known, depth + 1) for child in value.state.values())
    return known[id(value)]


def _collect(value: Any, name: str, specs: dict[str, TensorSpec]) -> None:
    """Dotted name -> tensor, for every tensor attribute of a TorchScript module and those inside it."""
    if isinstance(value, TensorSpec):
        specs[name] = value
    elif isinstance(value, Record) and isinstance(value.state, dict):
        for key, child in value.state.items():
            _collect(child, f"{name}.{key}" if name else str(key), specs)


class _Records:
    """The members of an archive, mapped into memory; each is compared with its checksum once."""

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile):
        self._path, self._archive, self._raw = path, archive, mapped(path)
        self._checked: set[str] = set()

    def read(self, name: str) -> np.ndarray:
        """Bytes of a member. Raises CheckpointError if it is not there, cut off, or not what was written."""
        try:
            return self._read(name)
        except Exception as error:  # what zipfile and zlib say of damaged members, in many kinds of errors
            cause = str(error) if type(error) is ValueError else reason(error)
            raise CheckpointError(f"damaged: {self._path}, its record {name}: {cause}; download it again") from error

    def _read(self, name: str) -> np.ndarray:
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._archive.read(info), np.uint8)  # zipfile compares the checksum
        header = self._raw[info.header_offset : info.header_offset + 30].tobytes()
        if header[:4] != b"PK\x03\x04":
            raise ValueError("the archive's list of members is wrong")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + 30 + lengths
        data = self._raw[start : start + info.file_size]
        # torch can be told to leave checksums out; then they are 0.
        if len(data) != info.file_size or (name not in self._checked and info.CRC not in (0, zlib.crc32(data.data))):
            raise ValueError("it holds other bytes than were written")
        self._checked.add(name)
        return data
