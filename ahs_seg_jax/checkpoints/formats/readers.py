"""Any file of tensors, opened lazily: names, shapes and dtypes at once, values one tensor at a time.

No reader executes code from a file: torch pickles are read with `weights_only`, TorchScript archives as archives of
tensors, npz without pickles. Only torch pickles need torch (the `convert` extra).
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import hub, torchscript
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.models import parameters

CONFIG_KEY = "ahs_seg_jax_config"  # our model configuration as JSON, in the files that this project writes
HASHES_KEY = "ahs_seg_jax_hashes"  # and the hashes of their tensors, where the format has no checksum of its own
STATE_KEYS = ("model", "state_dict")  # where training programs put the tensors within their dictionary
EXPANSION = 100  # times its own size that a zip file may take unpacked; weights can hardly be compressed
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file. `load` reads it in the file's dtype (bfloat16 of torch as float32)."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """An open file of tensors. `config` is our model configuration, `hf_config` Hugging Face's, where it has one."""

    where: str
    kind: str
    paths: tuple[pathlib.Path, ...]
    tensors: dict[str, LazyTensor]
    config: dict[str, Any] | None = None
    hf_config: dict[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


@contextlib.contextmanager
def open_tensors(source: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """Opens a `.pth`, `.pt`, `.bin`, `.safetensors` or `.npz` file, or a Hugging Face directory.

    Raises:
      CheckpointError: there is no such file, it is none of these, it is damaged, it holds more than tensors, or reading
        it needs torch and torch is not installed.
    """
    path = hub.locate(source)
    with contextlib.ExitStack() as stack:
        yield _open_directory(path, stack) if path.is_dir() else _open_file(path, stack)


def weight_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of tensors in a Hugging Face directory: all shards, or the one file; empty if it has none.

    Raises:
      CheckpointError: the index of the shards is damaged, or names files that are not there.
    """
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [file for file in (path / "model.safetensors", path / "pytorch_model.bin") if file.is_file()][:1]
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} is malformed: its weight_map does not give a file for each tensor")
    names = sorted(set(weight_map.values()))
    if any(pathlib.PurePath(name).name != name for name in names):
        raise CheckpointError(f"{index} names files outside its directory; the file is malformed")
    files = [path / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{path} is incomplete: {index.name} names {', '.join(missing)}, which is not there")
    return files


def _open_directory(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    files = weight_files(path)
    if not files:
        raise CheckpointError(
            f"{path} is a directory without model.safetensors, model.safetensors.index.json or pytorch_model.bin; it "
            "is no converted checkpoint (params/ and manifest.json) and no training workdir either"
        )
    hf_config = _read_json(path / "config.json") if (path / "config.json").is_file() else None
    parts = [_open_file(file, stack) for file in files]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    paths = tuple(path for part in parts for path in part.paths)
    return TensorFile(str(path), f"directory of {parts[0].kind}", paths, tensors, parts[0].config, hf_config)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return manifests.parse_json(path.read_bytes(), path)


def _open_file(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(path, stack)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is a web page, not a checkpoint; download the file again")
    if path.suffix == ".safetensors":
        return _open_safetensors(path, stack)
    if head.startswith(b"\x80"):
        return _open_torch(path, stack)
    raise CheckpointError(
        f"{path} is neither a torch file, a TorchScript archive, safetensors nor npz (it begins with {head[:8]!r}); "
        "a download that was cut off looks like this too"
    )


def _open_zip(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged or cut off ({error}); download it again") from error
    names = archive.namelist()
    _check_members(archive, path)
    if names and all(name.endswith(".npy") for name in names):
        return _open_npz(path, stack)
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip file without tensors; it holds {', '.join(names[:5]) or 'nothing'}")
    if torchscript.is_torchscript(archive):
        return _open_torchscript(path, archive)
    return _open_torch(path, stack)


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

    def load(name: str) -> np.ndarray:
        with _naming(path, f"the array {name}"):  # zipfile compares the checksum
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
            config = _parse_config(load(name).tolist(), path)
        else:
            tensors[name] = LazyTensor(shape, dtype.name, functools.partial(load, name))
    return TensorFile(str(path), "npz", (path,), tensors, config)


def _open_safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    try:
        file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no valid safetensors file ({error}); download it again") from error
    metadata = file.metadata() or {}
    stored: Any = {}
    if HASHES_KEY in metadata:
        about, stored = hashes.unsealed(_parse_config(metadata[HASHES_KEY], path), str(path))
        if stored is None or about.get(CONFIG_KEY) != metadata.get(CONFIG_KEY):
            raise CheckpointError(f"damaged: {path} is not what was written there")

    def load(name: str) -> np.ndarray:
        tensor = file.get_tensor(name)
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
    config = _parse_config(metadata.get(CONFIG_KEY), path)
    return TensorFile(str(path), "safetensors", (path,), tensors, config)


def _open_torchscript(path: pathlib.Path, archive: zipfile.ZipFile) -> TensorFile:
    root = torchscript.record_root(archive)

    def load(spec: torchscript.TensorSpec) -> np.ndarray:
        with _naming(path, f"the tensor of {spec.key}"):  # zipfile compares the checksum
            return spec.view(archive.read(f"{root}/data/{spec.key}"))

    specs = torchscript.tensor_specs(archive, str(path))
    tensors = {n: LazyTensor(spec.shape, spec.dtype.name, functools.partial(load, spec)) for n, spec in specs.items()}
    return TensorFile(str(path), "TorchScript archive", (path,), tensors)


def _open_torch(path: pathlib.Path, stack: contextlib.ExitStack) -> TensorFile:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a torch pickle, and reading it needs torch: pip install 'ahs_seg_jax[convert]'. "
            "safetensors, npz, TorchScript archives and converted checkpoints need no torch"
        ) from error
    if zipfile.is_zipfile(path):
        with _naming(path, "one of its records"), zipfile.ZipFile(path) as archive:
            if torn := archive.testzip():  # torch does not look at the checksums of what it maps into memory
                raise CheckpointError(
                    f"damaged: {path} holds other bytes in {torn} than were written; download it again"
                )
    try:
        # Memory-mapped, so that a training checkpoint's optimiser state takes no memory.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} is refused: it cannot be read as a file of tensors alone ({reason}). Nothing of it was executed. "
            "If it is not damaged, ask its author for the state dict alone, best as safetensors"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__} where a dictionary of tensors is expected")
    config = _parse_config(loaded.get(CONFIG_KEY), path)
    state = next((loaded[key] for key in STATE_KEYS if isinstance(loaded.get(key), dict)), loaded)

    def load(name: str, tensor: Any) -> np.ndarray:
        with _naming(path, f"the tensor {name}"):
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise CheckpointError(f"{path} is refused: its tensor {name} is larger than what is stored of it")
            tensor = tensor.detach()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    tensors = {
        str(name): LazyTensor(tuple(t.shape), str(t.dtype).removeprefix("torch."), functools.partial(load, name, t))
        for name, t in state.items()
        if isinstance(t, torch.Tensor)
    }
    stack.callback(tensors.clear)  # releases the memory map
    return TensorFile(str(path), "torch pickle", (path,), tensors, config)


def _parse_config(text: Any, path: pathlib.Path) -> dict[str, Any] | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise CheckpointError(f"{path}: its {CONFIG_KEY} is no text")
    return manifests.parse_json(text, f"the JSON in {path}")
