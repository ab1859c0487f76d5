"""Any file of tensors, opened lazily: names, shapes and dtypes at once, values one tensor at a time.

No reader executes code from a file, and none needs torch: the pickles of torch's files are read as data (`pickles`),
npz without pickles.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import torch_files
from ahs_seg_jax.checkpoints.formats.tensor_file import CONFIG_KEY, WEIGHT_FILES, LazyTensor, TensorFile, parse_config
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.models import parameters

HASHES_KEY = "ahs_seg_jax_hashes"  # and the hashes of their tensors, where the format has no checksum of its own
EXPANSION = 100  # times its own size that a zip file may take unpacked; weights can hardly be compressed
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}


@contextlib.contextmanager
def open_tensors(source: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """Opens a `.pth`, `.pt`, `.bin`, `.safetensors` or `.npz` file, or a Hugging Face directory.

    Raises:
      CheckpointError: there is no such file, it is none of these, it is damaged, or it would execute something.
    """
    path = pathlib.Path(source)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {source}")
    with contextlib.ExitStack() as stack:
        file = _open_directory(path, stack) if path.is_dir() else _open_file(path, stack)
        yield dataclasses.replace(file, tensors=_without_prefix(file.tensors))


def _without_prefix(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors without what torch's DistributedDataParallel and compile() put before every name."""
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def weight_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of tensors in a directory of transformers or open_clip: all shards, or the one file; [] without any.

    Raises:
      CheckpointError: the index of the shards is damaged, or names files that are not there.
    """
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None or found.suffix != ".json":
        return [] if found is None else [found]
    weight_map = _read_json(found).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{found} is malformed: its weight_map does not give a file for each tensor")
    names = sorted(set(weight_map.values()))
    if any(pathlib.PurePath(name).name != name for name in names):
        raise CheckpointError(f"{found} names files outside its directory; the file is malformed")
    files = [path / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{path} is incomplete: {found.name} names {', '.join(missing)}, which is not there")
    return files


def _open_directory(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    files = weight_files(path)
    if not files:
        raise CheckpointError(
            f"{path} is a directory without {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}; it is no converted "
            "checkpoint (params/ and manifest.json) and no training workdir either"
        )
    parts = [_open_file(file, stack) for file in files]
    tensors: dict[str, LazyTensor] = {}
    for part in parts:
        if repeated := next((name for name in part.tensors if name in tensors), None):
            raise CheckpointError(f"{path}: {repeated} is in several of its shards; the index is of other files")
        tensors |= part.tensors
    paths = tuple(path for part in parts for path in part.paths)
    return TensorFile(str(path), f"directory of {parts[0].kind}", paths, tensors, parts[0].config)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return manifests.parse_json(path.read_bytes(), path)


def _open_file(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    if not path.is_file():  # a pipe would keep who opens it waiting
        raise CheckpointError(f"{path} is no regular file; copy what it gives into one")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(path, stack)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is a web page, not a checkpoint; download the file again")
    if path.suffix == ".safetensors" or head[8:9] == b"{":  # whatever it is called, as in the hub's cache
        return _open_safetensors(path, stack)
    if head.startswith(b"\x80"):
        return torch_files.open_stream(path)
    raise CheckpointError(
        f"{path} is neither a torch file, a TorchScript archive, safetensors nor npz (it begins with {head[:8]!r}); "
        "a download that was cut off looks like this too"
    )


def _open_zip(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except Exception as error:  # of a damaged list of members, zipfile says so in many kinds of errors
        raise CheckpointError(f"{path} is damaged or cut off ({reason(error)}); download it again") from error
    names = archive.namelist()
    _check_members(archive, path)
    if names and all(name.endswith(".npy") for name in names):
        return _open_npz(path, stack)
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip file without tensors; it holds {', '.join(names[:5]) or 'nothing'}")
    return torch_files.open_zip(path, archive)


def _check_members(archive: zipfile.ZipFile, path: pathlib.Path) -> None:
    """Raises CheckpointError for a zip file that holds what no checkpoint needs, before any of it is read."""
    members = archive.infolist()
    if any(member.flag_bits & 1 for member in members):
        raise CheckpointError(f"{path} is encrypted; give the file as it was before")
    size = sum(member.file_size for member in members)
    if size > EXPANSION * path.stat().st_size + 2**26:
        raise CheckpointError(f"{path} is refused: unpacked it would take {size} bytes, {EXPANSION} times its own size")


@contextlib.contextmanager
def _naming(path: pathlib.Path, what: str) -> Iterator[None]:
    """What a library says of a damaged file, in many kinds of errors, becomes a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged: {what} cannot be read ({reason(error)}); download it again"
        ) from error


def _open_npz(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    with _naming(path, "its list of arrays"):
        file = stack.enter_context(np.load(path, allow_pickle=False))

    alone = threading.Lock()  # NumPy reads a header by `ast`, which two threads of Python 3.11 must not do at once

    def load(name: str) -> np.ndarray:
        with alone, _naming(path, f"the array {name}"):  # zipfile compares the checksum
            return file[name]

    tensors, config = {}, None
    for name in file.files:
        with _naming(path, f"the array {name}"), file.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
        if dtype.hasobject:
            raise CheckpointError(
                f"{path} is refused: its array {name!r} holds Python objects, which can only be read by executing code "
                "from the file; save plain arrays"
            )
        if name == CONFIG_KEY:
            config = parse_config(load(name).tolist(), path)
        else:
            tensors[name] = LazyTensor(shape, dtype.name, functools.partial(load, name))
    return TensorFile(str(path), "npz", (path,), tensors, config)


def _mapped_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a file that the library has examined, as views of it: nothing is read before it is used."""
    raw = torch_files.mapped(path)
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    found = {}
    for name, about in json.loads(raw[8:start].tobytes()).items():
        if name != "__metadata__" and (dtype := _SAFETENSORS_DTYPES.get(about["dtype"])):
            first, last = about["data_offsets"]
            found[name] = raw[start + first : start + last].view(dtype).reshape(about["shape"])
    return found


def _open_safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    try:
        file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no valid safetensors file ({error}); download it again") from error
    metadata = file.metadata() or {}
    stored: Any = {}
    if HASHES_KEY in metadata:
        about, stored = hashes.unsealed(parse_config(metadata[HASHES_KEY], path), str(path))
        if stored is None or about.get(CONFIG_KEY) != metadata.get(CONFIG_KEY):
            raise CheckpointError(f"damaged: {path} is not what was written there")

    mapped = _mapped_safetensors(path)

    def load(name: str) -> np.ndarray:
        tensor = mapped[name] if name in mapped else file.get_tensor(name)
        if name in stored:
            hashes.check({name: tensor}, {name: stored[name]}, str(path))
        return tensor

    tensors = {}
    for name in file.keys():  # not a dictionary: it has no iterator
        part = file.get_slice(name)
        dtype = _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype())
        tensors[name] = LazyTensor(tuple(part.get_shape()), dtype, functools.partial(load, name))
    if lost := [name for name in stored if name not in tensors]:
        raise CheckpointError(f"damaged: {path} lacks the arrays {parameters.listed(lost)}")
    config = parse_config(metadata.get(CONFIG_KEY), path)
    return TensorFile(str(path), "safetensors", (path,), tensors, config)
