"""Checkpoint files of every container and several layouts, changed by bytes and by structure; nothing in them runs."""

import json
import pathlib
import shutil
import zipfile

import numpy as np

from ahs_seg_jax.checkpoints import converted, manifest
from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.checkpoints.conftest import PLAIN, VISIBLE, _random_params
from tests.support import torch_files

GLOBALS = (b"cposix\nmkdir\n", b"cos\nmkdir\n", b"cbuiltins\nexec\n", b"csubprocess\ncall\n", b"ctorch\nload\n")


def converted_folder(folder: pathlib.Path) -> pathlib.Path:
    """A directory as `ahs-seg convert` writes it."""
    training = {"vocabulary": {"names": ["a", "b"], "templates": ["a {}"]}, "config": {"eval": {"protocol": "whole"}}}
    about = manifest.describe(PLAIN, {"path": "f", "layout": "catseg"}, training)
    params = _random_params("catseg", PLAIN)
    return converted.save_converted(folder, manifest.Pretrained(PLAIN, params, about))


def equal(one, other) -> bool:
    """Whether two trees of parameters are bit for bit the same."""
    one, other = dict(parameters.flatten(one)), dict(parameters.flatten(other))
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class Attack(Kind):
    mistakes = (CheckpointError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self._whole = folder / "whole"
        self._whole.mkdir()
        self._ran = folder / "ran"  # a folder that hostile pickles would make
        self._params = _random_params("catseg", PLAIN)
        self._seeds = ["a.safetensors", "a.npz", "clip.safetensors"]
        writers.write(self._whole / "a.safetensors", "catseg", PLAIN, self._params)
        writers.write(self._whole / "a.npz", "catseg", PLAIN, self._params)
        clip = _random_params("openai_clip", VISIBLE)
        writers.write(self._whole / "clip.safetensors", "openai_clip", VISIBLE, clip)
        writers.write(self._whole / "hugging", "hf_clip", VISIBLE, _random_params("hf_clip", VISIBLE))
        try:
            import torch
        except ImportError:
            pass
        else:
            writers.write(self._whole / "a.pth", "catseg", PLAIN, self._params)
            content = torch.load(self._whole / "a.pth", weights_only=True)
            torch.save(content, self._whole / "legacy.pth", _use_new_zipfile_serialization=False)
            self._seeds += ["a.pth", "legacy.pth"]
        tensors = {f"visual.x{k}": torch_files.tensor_pickle(key=str(k)) for k in range(3)}
        pickle = torch_files.finished(torch_files.module_pickle(tensors))
        torch_files.script_archive(self._whole / "script.pt", pickle, [(str(k), bytes(12)) for k in range(3)])
        converted_folder(self._whole / "converted")
        self._seeds += ["hugging", "script.pt", "converted", "converted"]
        self._data = {
            path: path.read_bytes() for path in self._whole.rglob("*") if path.is_file() and path.stat().st_size
        }

        self._json = {
            path.name: json.loads(data)
            for path, data in self._data.items()
            if path.parent.name == "hugging" and path.suffix == ".json"
        }

    def run(self, rng):
        name = mutations.pick(rng, self._seeds)
        seed, self._path = self._whole / name, self.folder / name
        intact = True  # whether its checksums belong to the numbers that were written
        try:
            if seed.is_dir():
                shutil.copytree(seed, self._path)
                within = sorted(path for path in self._data if path.is_relative_to(seed))
                for _ in range(int(rng.integers(1, 3))):
                    self._damage(self._path / mutations.pick(rng, within).relative_to(seed), rng)
                intact = name == "converted"
            else:
                data, intact = self._changed(name, self._data[seed], rng)
                self._path.write_bytes(data)
            self._load(name, intact and name in ("a.npz", "a.safetensors", "a.pth", "converted"))
        finally:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path.unlink(missing_ok=True)

    def _damage(self, path, rng):
        if not path.exists():
            return
        kind = rng.integers(8)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(b"")
        elif path.parent.name == "hugging" and path.name in self._json and kind < 6:
            path.write_bytes(mutations.json_text(mutations.change_json(self._json[path.name], rng), rng))
        else:
            path.write_bytes(mutations.turn_bits(path.read_bytes(), rng))

    def _changed(self, name, data, rng):
        """(the changed bytes, whether every checksum is as it was written)."""
        if rng.random() < 0.5:
            return mutations.turn_bits(data, rng), True
        if name.endswith(".safetensors") and rng.random() < 0.7:
            size = int.from_bytes(data[:8], "little")
            header = mutations.json_text(mutations.change_json(json.loads(data[8 : 8 + size]), rng), rng)
            return len(header).to_bytes(8, "little") + header + data[8 + size :], False
        if data[:2] == b"PK":
            data = mutations.change_archive(data, rng)
        else:
            data = mutations.change_bytes(data, rng, 2000)
        if rng.random() < 0.2 and name.endswith((".pth", ".pt")):
            call = mutations.pick(rng, GLOBALS) + b"(X" + len(str(self._ran)).to_bytes(4, "little")
            data = self._poisoned(data, call + str(self._ran).encode() + b"tR0")
        return data, False

    def _poisoned(self, data, opcodes):
        """A pickle that calls something before it does what it did; in a zip, with the member's own sum."""
        if data[:2] != b"PK":
            place = data.find(b"\x80\x02")
            return data[: place + 2] + opcodes + data[place + 2 :]
        path = self.folder / "poisoned.zip"
        path.write_bytes(data)
        try:
            with zipfile.ZipFile(path) as archive:
                members = {info.filename: archive.read(info) for info in archive.infolist()}
        except Exception:  # it is damaged already
            return data
        finally:
            path.unlink()
        pickles = [member for member in members if member.endswith("data.pkl")]
        for member in pickles:
            members[member] = members[member][:2] + opcodes + members[member][2:]
        try:
            return torch_files.write_zip(path, members).read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def _load(self, name, has_checksums):
        try:
            found = load_pretrained(self._path)
        finally:
            if self._ran.exists():
                self._ran.rmdir()
                raise Silent(f"{name} made a folder when it was loaded")
        bad = [path for path, leaf in parameters.flatten(found.params) if not np.isfinite(leaf).all()]
        if bad:
            raise Silent(f"{name} holds values that are not finite: {bad[:3]}")
        if has_checksums and not equal(found.params, self._params):
            raise Silent(f"{name} was loaded with other numbers")

    def is_clear(self, said):
        return self._path.name in said and len(said) > 40
