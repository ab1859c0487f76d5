"""Files as torch writes them, made byte by byte: pickles of tensors and modules, and their archives; torch hidden."""

import sys
import zipfile


def hide_torch(monkeypatch):
    """From now on `import torch` fails.

    transformers remembers for good whether there is torch. It is asked before, or later tests of the same process
    would have none.
    """
    import transformers.utils

    transformers.utils.is_torch_available()
    monkeypatch.setitem(sys.modules, "torch", None)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return path


def script_archive(path, data_pickle, storages=()):
    """A zip with the members by which TorchScript archives are known."""
    members = {"m/data.pkl": data_pickle, "m/constants.pkl": b"\x80\x02).", "m/code/__torch__.py": "never read"}
    return write_zip(path, members | {f"m/data/{key}": data for key, data in storages})


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def integers(values):
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def tensor_pickle(key="0", numel=6, offset=0, shape=(2, 3), strides=(3, 1)):
    """Protocol-2 opcodes of one tensor, as TorchScript writes them."""
    reference = b"(" + short("storage") + named("torch", "HalfStorage") + short(key) + short("cpu")
    reference += b"K" + bytes([numel]) + b"tQ"
    arguments = b"(" + reference + b"K" + bytes([offset]) + integers(shape) + integers(strides) + b"\x89"
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + named("collections", "OrderedDict") + b")RtR"


def module_pickle(attributes):
    """A module with attributes: name -> opcodes of the value."""
    items = b"".join(short(name) + value for name, value in attributes.items())
    return named("__torch__.net", "Net") + b")\x81}(" + items + b"ub"


def finished(opcodes):
    return b"\x80\x02" + opcodes + b"."
