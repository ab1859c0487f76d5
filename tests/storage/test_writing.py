"""Whole writers: what stands there before stays until the new file is complete, on a full disk as well."""

import errno
import json
import os
import pathlib

import pytest

from ahs_seg_jax.errors import CheckpointError, WriteError, reason
from ahs_seg_jax.storage import writing

WRITERS = {
    "bytes": (lambda path: writing.write_bytes(path, b"\x00new"), b"\x00new"),
    "text": (lambda path: writing.write_text(path, "new é\n"), "new é\n".encode()),
    "json": (lambda path: writing.write_json(path, {"b": 1, "a": "é"}), b'{\n "b": 1,\n "a": "\\u00e9"\n}\n'),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_replaced_and_nothing_is_left_beside_it(kind, tmp_path):
    write, expected = WRITERS[kind]
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write(path)
    assert path.read_bytes() == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
def test_a_full_disk_is_named_and_leaves_what_was_there(kind, before, moment, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        full()

    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with monkeypatch.context() as patch:
        owner, name = {"write": (pathlib.Path, "write_bytes"), "fsync": (os, "fsync"), "rename": (os, "replace")}[
            moment
        ]
        patch.setattr(owner, name, half if moment == "write" else full)
        with pytest.raises(WriteError) as caught:
            WRITERS[kind][0](path)
    assert str(caught.value) == (
        f"{path} cannot be written: the disk is full (No space left on device); what stood there before is unchanged"
    )
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == ([("file", b"old")] if before else [])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WriteError, match=r"absent.file cannot be written: FileNotFoundError: \[Errno 2\]"):
        writing.write_text(tmp_path / "absent" / "file", "text")


def test_an_error_of_the_caller_leaves_the_old_file(tmp_path):
    def fail():
        with writing.whole(path) as unfinished:
            unfinished.write_bytes(b"new")
            raise KeyError("mine")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError, match="mine"):
        fail()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_json_options_are_those_of_json(tmp_path):
    content = {"b": "é", "a": [1, None]}
    writing.write_json(tmp_path / "file", content, sort_keys=True, ensure_ascii=False)
    text = (tmp_path / "file").read_text("utf-8")
    assert text.index('"a"') < text.index('"b": "é"')
    assert json.loads(text) == content


def test_reasons_are_one_line():
    assert reason(ValueError("RESOURCE_EXHAUSTED: ...")) == "the disk is full (No space left on device)"
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    assert reason(ValueError()) == "ValueError: no message"
    assert reason(CheckpointError("damaged: x")) == "damaged: x"
    assert len(reason(ValueError("x" * 1000))) == len("ValueError: ") + 300
