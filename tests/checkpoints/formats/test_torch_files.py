"""Torch's files are read without torch, exactly as torch reads them, and nothing in them is executed."""

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import random
import subprocess
import zipfile

import ml_collections
import ml_dtypes
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import pickles, readers
from ahs_seg_jax.errors import CheckpointError
from tests.support.torch_files import finished, named, short, tensor_pickle, write_zip


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def tensors_of_every_kind(torch):
    torch.manual_seed(0)
    names = "float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool complex64".split()
    state = collections.OrderedDict((name, (10 * torch.randn(3, 5)).to(getattr(torch, name))) for name in names)
    base, with_more = torch.randn(40), torch.nn.Parameter(torch.randn(2, 3))
    with_more.noted = "torch stores this beside the tensor"
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3), "view": base[3:23].view(4, 5).T}
    state |= {"tail": base[30:], "parameter": torch.nn.Parameter(torch.randn(4)), "more": with_more}
    state["position_ids"] = torch.arange(7).expand((1, -1))
    state._metadata = collections.OrderedDict({"": {"version": 1}})  # as Module.state_dict() leaves it
    return state


def a_training_programs_values(torch):
    """What stands beside the tensors in checkpoints: all of it is left unread."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.randn(3, 3))])
    return {
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(rate=1e-3, out=pathlib.Path("runs"), device=torch.device("cpu"), act=torch.relu),
        "config": ml_collections.ConfigDict({"a": {"b": 1}}),
        "best": np.float64(0.3),
        "history": np.arange(5),
        "when": datetime.datetime(2026, 1, 2),
        "kind": Colour.RED,
        "sets": [{1, 2}, frozenset({3}), collections.Counter("ab"), collections.defaultdict(list, {"x": [1]})],
        "random": [np.random.get_state(), random.getstate(), torch.get_rng_state()],
        "sizes": [torch.Size([1, 2]), torch.float16, 2**100, 1 + 2j, b"ab", bytearray(b"zz"), None, 0.5],
    }


def assert_as_torch_reads_it(torch, path, key="model"):
    loaded = torch.load(path, weights_only=False)
    expected = loaded[key] if key else loaded
    with readers.open_tensors(path) as file:
        assert file.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            found, tensor = file.tensors[name], tensor.detach()
            assert (found.shape, found.dtype) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            values = found.load()
            if found.dtype == "bfloat16":
                values, tensor = values.astype(np.float32), tensor.float()
            np.testing.assert_array_equal(values, tensor.numpy(), err_msg=name, strict=True)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_tensor_is_what_torch_reads(torch, zipped, protocol, tmp_path):
    content = {"model": tensors_of_every_kind(torch), "epoch": 3, **a_training_programs_values(torch)}
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(content, tmp_path / "f.pth", **options)
    assert_as_torch_reads_it(torch, tmp_path / "f.pth")
    torch.save(content["model"], tmp_path / "flat.pth", **options)
    assert_as_torch_reads_it(torch, tmp_path / "flat.pth", key="")


def test_types_without_a_storage_of_their_own(torch, tmp_path):
    state = {"u16": torch.arange(7).to(torch.uint16), "f8": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn)}
    torch.save(state, tmp_path / "f.pth")
    with readers.open_tensors(tmp_path / "f.pth") as file:
        np.testing.assert_array_equal(file.tensors["u16"].load(), np.arange(7, dtype=np.uint16), strict=True)
        expected = np.array([1.5, -2.0], ml_dtypes.float8_e4m3fn)
        np.testing.assert_array_equal(file.tensors["f8"].load(), expected, strict=True)


def test_files_without_checksums_are_read_and_others_compared(torch, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, tmp_path / "none.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_as_torch_reads_it(torch, tmp_path / "none.pth", key="")
    torch.save({"a": torch.arange(5), "optimizer": {"b": torch.arange(100, 200)}}, tmp_path / "f.pth")
    data = (tmp_path / "f.pth").read_bytes()
    (tmp_path / "f.pth").write_bytes(data.replace(np.int64(150).tobytes(), np.int64(151).tobytes()))
    with readers.open_tensors(tmp_path / "f.pth") as file:  # nobody looks at the optimiser
        np.testing.assert_array_equal(file.tensors["a"].load(), np.arange(5))
    (tmp_path / "f.pth").write_bytes(data.replace(np.arange(5).tobytes(), np.arange(1, 6).tobytes()))
    with (
        readers.open_tensors(tmp_path / "f.pth") as file,
        pytest.raises(CheckpointError, match=r"damaged: .*f\.pth, its record f/data/0: it holds other bytes"),
    ):
        file.tensors["a"].load()


def test_streams_that_are_cut_off(torch, tmp_path):
    torch.save({"a": torch.arange(50), "b": torch.arange(9)}, tmp_path / "f.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "f.pth").read_bytes()
    for length in (len(data) - 1, len(data) - 100, 30):
        (tmp_path / "f.pth").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"f\.pth (ends before its last|is refused: its pickle is m)"):
            readers.open_tensors(tmp_path / "f.pth").__enter__()


def test_deflated_archives_and_whole_models(torch, tmp_path):
    torch.save({"a": torch.arange(50)}, tmp_path / "f.pth")
    with zipfile.ZipFile(tmp_path / "f.pth") as archive, zipfile.ZipFile(tmp_path / "g.pth", "w", 8) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with readers.open_tensors(tmp_path / "g.pth") as file:
        np.testing.assert_array_equal(file.tensors["a"].load(), np.arange(50))
    torch.save(torch.nn.Linear(2, 3), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"an object of torch\.nn\.modules\.linear\.Linear .*save its state_dict"):
        readers.open_tensors(tmp_path / "whole.pth").__enter__()


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def archive(path, pickled):
    return write_zip(path, {"a/data.pkl": pickled, "a/version": "3", "a/data/0": bytes(12)})


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("where", ["value", "key", "list", "state", "alone"])
def test_calls_are_refused_by_name(where, protocol, tmp_path):
    mark = tmp_path / "executed"
    evil = Calls(os.mkdir, str(mark))
    place = {"key": {evil: 1}, "list": [[evil]], "state": argparse.Namespace(a=evil), "alone": evil}
    pickled = pickle.dumps({"model": {"weight": evil}} if where == "value" else place[where], protocol)
    with pytest.raises(CheckpointError, match=r"refused: its pickle names (posix|nt)\.mkdir .*Nothing of it was exec"):
        readers.open_tensors(archive(tmp_path / "evil.pth", pickled)).__enter__()
    (tmp_path / "evil.bin").write_bytes(pickled if protocol >= 2 else b"\x80\x02" + pickled)
    with pytest.raises(CheckpointError, match=r"refused: its pickle names (posix|nt)\.mkdir .*Nothing of it was exec"):
        readers.open_tensors(tmp_path / "evil.bin").__enter__()
    assert not mark.exists()


CALLS = {
    "eval": Calls(eval, "1"),
    "exec": Calls(exec, "1"),
    "import": Calls(__import__, "os"),
    "getattr": Calls(getattr, "text", "join"),
    "open": Calls(io.open, "f", "w"),
    "loads": Calls(pickle.loads, b"N."),
    "partial": Calls(functools.partial, print),
    "np.load": Calls(np.load, "f"),
    "class of Python": Calls(subprocess.Popen, "true"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_functions_of_python_and_numpy_are_refused(call, tmp_path):
    with pytest.raises(CheckpointError, match=r"refused: its pickle (names [\w.]+ to be called|makes an obj)"):
        readers.open_tensors(archive(tmp_path / "evil.pth", pickle.dumps({"a": call}, 2))).__enter__()


ORDERED, RECORD, TENSOR = named("collections", "OrderedDict"), named("a.package", "Thing"), tensor_pickle()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (named("os", "system") + short("true") + b"\x85\x81", "names os.system to be called"),  # NEWOBJ
        (b"(" + named("os", "system") + short("true") + b"o", "names os.system to be called"),  # OBJ
        (b"(" + short("true") + b"ios\nsystem\n", "names os.system to be called"),  # INST
        (named("a.package", "function") + b")R", "names a.package.function to be called"),
        (RECORD + b")R" + b")R", "calls a Record"),
        (named("torch", "load") + short("f") + b"\x85R", "names torch.load to be called"),
        (named("torch.storage", "_load_from_bytes") + short("f") + b"\x85R", "names torch.storage._load_from_bytes"),
        (named("builtins", "getattr") + named("os", "path") + short("system") + b"\x86R", "names os.path to be called"),
        (named("torch._tensor", "_rebuild_from_type_v2") + named("os", "system") + b"NN)tR", "is malformed"),
        (named("torch._utils", "_rebuild_tensor_v2") + b")R", "hands 0 values to torch._utils._rebuild_tensor_v2"),
        (named("torch._utils", "_rebuild_tensor_v2") + b"(NNNNtR", "builds a tensor from what is no storage"),
        (ORDERED + b"N}" + short("items") + b"Ns\x86b", "tries to change what is not its own"),
        (b"]}b", "tries to change what is not its own"),
        (b"(K\x01K\x02tNQ", "refers to what is no storage"),
        (short("storage") + b"\x85Q", "is malformed"),
        (b"\x82\x01", "holds EXT1, which no file of tensors needs"),
        (b"a", "is malformed"),
        (b"", "is malformed"),
        (b"(", "is malformed"),
        (b"h\x07", "is malformed"),
        (tensor_pickle(shape=(255,) * 40, strides=(0,) * 40), "builds a tensor of 40 axes"),
        (TENSOR.replace(b"K\x06", b"J\xff\xff\xff\xff"), "states a size of a tensor that is no number"),
    ],
)
def test_pickles_by_their_opcodes(opcodes, message):
    with pytest.raises(pickles.Refused, match=message.replace(".", r"\.")):
        pickles.loads(io.BytesIO(finished(opcodes)))


def test_other_peoples_objects_are_records_with_their_items():
    made = RECORD + b")\x81" + b"}" + short("rate") + b"K\x05sb"
    found = pickles.loads(io.BytesIO(finished(made)))
    assert (found.kind, found.state, dict(found)) == ("a.package.Thing", {"rate": 5}, {})
    found = pickles.loads(io.BytesIO(finished(RECORD + b")R(" + short("w") + TENSOR + b"u")))
    assert found["w"].shape == (2, 3)


def test_keys_that_take_forever_to_hash_and_memos_that_take_memory():
    key = b")"
    for index in range(60):  # 2^60 steps for Python's hash
        key += b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86"
    assert pickles.loads(io.BytesIO(finished(b"}" + key + b"K\x01s"))) == {}
    assert pickles.loads(io.BytesIO(finished(b"Nr\xff\xff\xff\x7f"))) is None  # Python's own memo would be a table


def test_pickles_without_an_end():
    with pytest.raises(pickles.Refused, match="has more than 2000000 parts"):
        pickles.loads(io.BytesIO(finished(b"N0" * 1_100_000 + b"N")))
