"""No file executes code: hostile pickles in every container are refused, and torch is needed for writing only."""

import os
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints.formats import convert, readers
from ahs_seg_jax.checkpoints.formats.stated import Stated
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from tests.support.torch_files import (
    finished,
    hide_torch,
    module_pickle,
    named,
    script_archive,
    short,
    tensor_pickle,
    write_zip,
)


class Hostile:
    """Unpickling it makes the directory `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_torchscript_tensors_are_read_without_torch(tmp_path, monkeypatch):
    hide_torch(monkeypatch)
    halves = np.arange(6, dtype=np.float16)
    inner = module_pickle({"weight": tensor_pickle(), "transposed": tensor_pickle(shape=(3, 2), strides=(1, 3))})
    path = script_archive(
        tmp_path / "m.pt", finished(module_pickle({"training": b"\x89", "block": inner})), [("0", halves.tobytes())]
    )
    with readers.open_tensors(path) as file:
        assert file.kind == "TorchScript archive"
        assert file.shapes == {"block.weight": (2, 3), "block.transposed": (3, 2)}
        assert file.tensors["block.weight"].dtype == "float16"
        np.testing.assert_array_equal(file.tensors["block.weight"].load(), [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(file.tensors["block.transposed"].load(), [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize("dtype", ["float32", "float16"])  # OpenAI's are of the second
def test_an_archive_that_torch_wrote_is_read_exactly(dtype, torch, visible, random_params, assert_same, tmp_path):
    params = random_params("openai_clip", visible)
    params = parameters.unflatten({k: v.astype(dtype).astype(np.float32) for k, v in parameters.flatten(params)})
    root = torch.nn.Module()
    for names, value in convert.state_dict("openai_clip", visible, params):
        *parents, leaf = names[0].split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(value.astype(dtype))))
    root.register_buffer("vocab_size", torch.tensor(97))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated in torch; OpenAI's files stay what they are
        torch.jit.save(torch.jit.script(root), tmp_path / "clip.pt")
    found = convert.read(tmp_path / "clip.pt")
    assert_same(found.params, params)
    assert found.config == visible
    assert found.manifest["source"]["kind"] == "TorchScript archive"
    assert found.manifest["source"]["stated"]["activation"]["value"] == "quick_gelu"
    assert found.manifest["key_map"]["ignored"] == ["vocab_size"]


@pytest.mark.parametrize("where", ["root", "attribute", "storage"])
def test_hostile_torchscript_is_refused_and_not_executed(where, tmp_path):
    mark = tmp_path / "executed"
    attack = named("os", "mkdir") + b"(" + short(str(mark)) + b"tR"
    opcodes = {
        "root": attack,
        "attribute": module_pickle({"weight": attack}),
        "storage": b"(" + short("storage") + named("os", "mkdir") + short("0") + short("cpu") + b"K\x01tQ",
    }
    path = script_archive(tmp_path / "evil.pt", finished(opcodes[where]))
    with pytest.raises(CheckpointError, match=r"refused.*names os\.mkdir.*Nothing of it was executed"):
        convert.read(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "torch load", "torch.jit load", "numpy load"])
def test_torchscript_names_nothing_but_tensors(name, tmp_path):
    path = script_archive(tmp_path / "evil.pt", finished(named(*name.split())))
    with pytest.raises(CheckpointError, match=r"refused: .*no archive of tensors needs"):
        convert.read(path)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    for target in (named("torch._utils", "_rebuild_tensor_v2"), named("torch", "HalfStorage"), named("__torch__", "M")):
        opcodes = target + b"N}" + short("__call__") + b"K\x01s\x86b"  # BUILD with (None, {"__call__": 1})
        with pytest.raises(CheckpointError, match="refused"):
            convert.read(script_archive(tmp_path / "evil.pt", finished(opcodes)))


@pytest.mark.parametrize(
    "view", [{"shape": (2, 4)}, {"offset": 1}, {"strides": (9, 1)}, {"numel": 7}, {"strides": (0, 0), "shape": (9, 9)}]
)
def test_tensors_outside_their_storage_are_refused(view, tmp_path):
    path = script_archive(tmp_path / "m.pt", finished(module_pickle({"w": tensor_pickle(**view)})), [("0", bytes(12))])
    with readers.open_tensors(path) as file, pytest.raises(CheckpointError, match=r"damaged: .*a tensor of shape"):
        file.tensors["w"].load()


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_hostile_torch_pickles_are_refused_and_not_executed(torch, container, tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.pth"
    if container == "zip":
        torch.save({"model": {"weight": torch.zeros(2)}, "more": Hostile(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Hostile(mark)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"refused.*Nothing of it was executed"):
        convert.read(path)
    assert not mark.exists()


def test_object_arrays_are_refused_and_not_executed(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.npz"
    with path.open("wb") as file:
        np.savez(file, **{"visual.proj": np.array([Hostile(mark)], dtype=object)})
    with pytest.raises(CheckpointError, match=r"refused: its array 'visual\.proj' holds Python objects"):
        convert.read(path)
    assert not mark.exists()


def test_only_writing_torch_pickles_needs_torch(monkeypatch, torch, visible, random_params, tmp_path):
    from ahs_seg_jax.checkpoints.formats import writers

    params = random_params("openai_clip", visible)
    pickled = writers.write(tmp_path / "clip.pth", "openai_clip", visible, params)
    hide_torch(monkeypatch)
    convert.read(pickled, statements=[Stated("quick_gelu", stated_by="the test")])
    with pytest.raises(CheckpointError, match=r"writing again\.pth needs torch: pip install 'ahs_seg_jax\[convert\]'"):
        writers.write(tmp_path / "again.pth", "openai_clip", visible, params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.pth"]
    for suffix in (".safetensors", ".npz"):
        convert.read(writers.write(tmp_path / f"clip{suffix}", "openai_clip", visible, params))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 cut off", "damaged or cut off"),
        (b"abcdefgh", "begins with b'abcdefgh'"),
        (b"", "neither a torch file"),
    ],
)
def test_what_is_no_checkpoint_is_said(content, message, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        convert.read(tmp_path / "file.pt")


def test_safetensors_are_views_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    stored = {
        "a": rng.normal(size=(3, 5)).astype(np.float32),
        "half": rng.normal(size=(7,)).astype(np.float16),
        "brain": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "count": np.array(5, np.int64),
        "byte": np.arange(3, dtype=np.uint8),
    }
    safetensors.numpy.save_file(stored, tmp_path / "m.safetensors", {"note": "x"})
    with readers.open_tensors(tmp_path / "m.safetensors") as file:
        found = {name: tensor.load() for name, tensor in file.tensors.items()}
        assert file.tensors["brain"].dtype == "bfloat16"
    for name, value in stored.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    for name in ("a", "half", "brain", "count"):
        assert not found[name].flags.writeable, "a view of the file"


def test_damaged_safetensors_and_zips_without_tensors_are_refused(tmp_path):
    (tmp_path / "f.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      cut")
    with pytest.raises(CheckpointError, match="no valid safetensors file"):
        convert.read(tmp_path / "f.safetensors")
    write_zip(tmp_path / "f.zip", {"readme.txt": "hello"})
    with pytest.raises(CheckpointError, match=r"a zip file without tensors; it holds readme\.txt"):
        convert.read(tmp_path / "f.zip")
