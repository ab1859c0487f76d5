"""Pins of the model zoo, from the metadata of a hub on the loopback."""

import hashlib

import pytest

from ahs_seg_jax.checkpoints.zoo import table as zoo
from scripts import pin_zoo

TABLE = """# What stands here stays.

[first]
title = "First"
repo = "o/first"
activation = "gelu"  # so does this

[second]
title = "Second"
repo = "o/second"
kind = "space"
file = "b.pth"
bytes = 3
licence = "MIT"
"""


@pytest.fixture
def table(hub, tmp_path):
    hub.add("o/first", {"config.json": b'{"model_type": "clip"}', "model.safetensors": b"12345"})
    hub.add("spaces/o/second", {"a.pth": b"1", "b.pth": b"123"})
    path = tmp_path / "zoo.toml"
    path.write_text(TABLE)
    return path


def test_what_is_left_out_is_filled_in_and_all_else_stays(hub, table, capsys):
    assert pin_zoo.main(["--table", str(table), "--check"]) == 1
    assert table.read_text() == TABLE
    assert pin_zoo.main(["--table", str(table)]) == 0
    found = zoo.parse(table.read_text(), "x")
    commit = hub.repositories["o/first"].tags["main"]
    assert (found["first"].revision, found["first"].file, found["first"].bytes) == (commit, "model.safetensors", 5)
    assert found["first"].sha256 == hashlib.sha256(b"12345").hexdigest()
    assert (found["second"].file, found["second"].bytes) == ("b.pth", 3)
    lines = table.read_text().splitlines()
    assert [line for line in lines if line in TABLE.splitlines()] == TABLE.splitlines()
    assert lines.index('repo = "o/first"') + 1 == lines.index(f'revision = "{commit}"')
    assert hub.downloads() == []
    assert "first.file: unset -> model.safetensors" in capsys.readouterr().out
    assert pin_zoo.main(["--table", str(table), "--check"]) == 0


def test_a_file_that_was_changed_is_an_error_unless_it_is_asked_for(hub, table, capsys):
    pin_zoo.main(["--table", str(table)])
    pinned = table.read_text()
    hub.add("o/first", {"config.json": b'{"model_type": "clip"}', "model.safetensors": b"123456"})
    assert pin_zoo.main(["--table", str(table), "first"]) == 0
    assert table.read_text() == pinned
    assert pin_zoo.main(["--table", str(table), "--again", "first"]) == 0
    assert zoo.parse(table.read_text(), "x")["first"].bytes == 6
    table.write_text(pinned.replace(hashlib.sha256(b"12345").hexdigest(), "0" * 64))
    assert pin_zoo.main(["--table", str(table), "first", "absent"]) == 1
    told = capsys.readouterr().err
    assert "the table 000" in told
    assert "absent: is not in the table" in told


def test_the_packaged_table_is_written_as_it_is_read():
    text = pin_zoo.TABLE.read_text("utf-8")
    for entry in zoo.parse(text, "models.toml").values():
        known = {key: getattr(entry, key) for key in pin_zoo.PINNED if getattr(entry, key)}
        assert pin_zoo.written(text, entry.name, known) == text
