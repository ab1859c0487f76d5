"""Changes of bytes, of JSON and of archives, by random numbers."""

import copy
import io
import json
import math
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

EXTREMES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff\xff\xff\x7f", b"\x01\0\0\0")
DEEP: list[Any] = json.loads("[" * 200 + "]" * 200)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, -(10**9), 0.5, -0.0, math.nan, math.inf, -math.inf),
    *("", "x", "../../x", "/etc/passwd", "\0", "\ud800".encode("utf-8", "replace").decode(), "x" * 5000, "1", "nan"),
    *([], {}, [[]], [0], {"x": 1}, [None] * 3, ["a"], [1e308, 2], DEEP),
)


def pick(rng: np.random.Generator, values: Any) -> Any:
    """One of several values of any type, as a copy, for it may be changed."""
    return copy.deepcopy(values[int(rng.integers(len(values)))])


def change_bytes(data: bytes, rng: np.random.Generator, head: int = 200) -> bytes:
    """One to five changes, more than half of them among the first `head` bytes."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not found:
            break
        reach = min(len(found), head) if rng.random() < 0.6 else len(found)
        place, kind = int(rng.integers(reach)), int(rng.integers(6))
        if kind == 0:
            found[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[place : place + 4] = pick(rng, EXTREMES)
        elif kind == 2:
            del found[place + 1 :]
        elif kind == 3:
            found[place:place] = found[place : place + int(rng.integers(1, 40))]
        elif kind == 4:
            del found[place : place + int(rng.integers(1, 40))]
        else:
            found[place] = int(rng.integers(256))
    return bytes(found)


def turn_bits(data: bytes, rng: np.random.Generator, most: int = 3) -> bytes:
    """Accidental damage: a few bits turned, or a block lost or zeroed."""
    found = bytearray(data)
    if not found:
        return b"\0"
    if rng.random() < 0.75:
        for _ in range(int(rng.integers(1, most + 1))):
            found[int(rng.integers(len(found)))] ^= 1 << int(rng.integers(8))
    else:
        place, length = int(rng.integers(len(found))), int(rng.integers(1, 4097))
        if rng.random() < 0.5:
            found[place : place + length] = bytes(len(found[place : place + length]))
        else:
            del found[place:]
    return bytes(found)


def change_json(content: Any, rng: np.random.Generator) -> Any:
    """A copy with one to three places changed, removed, renamed or added."""
    found = json.loads(json.dumps(content))
    for _ in range(int(rng.integers(1, 4))):
        if not isinstance(found, dict | list) or not found or rng.random() < 0.03:
            return pick(rng, VALUES)
        _change_place(found, rng)
    return found


def _change_place(group: Any, rng: np.random.Generator) -> None:
    while True:
        keys = list(group) if isinstance(group, dict) else list(range(len(group)))
        key = pick(rng, keys)
        if isinstance(group[key], dict | list) and group[key] and rng.random() < 0.8:
            group = group[key]
            continue
        kind = rng.integers(5)
        if kind == 0:
            del group[key]
        elif kind == 1 and isinstance(group, dict):
            group[pick(rng, ("x", "", str(key).upper(), "../x", "layers"))] = group.pop(key)
        elif kind == 2 and isinstance(group, dict):
            group[pick(rng, ("x", "", "config", "dtype"))] = pick(rng, VALUES)
        else:
            group[key] = pick(rng, VALUES)
        return


def json_text(content: Any, rng: np.random.Generator) -> bytes:
    """JSON, sometimes with changed bytes, nested without end, or in another encoding."""
    text = json.dumps(content)
    kind = rng.integers(12)
    if kind == 0:
        return change_bytes(text.encode(), rng)
    if kind == 1:
        return b"[" * int(rng.integers(10, 200_000))
    if kind == 2:
        return text.encode(str(pick(rng, ("utf-16", "utf-8-sig", "utf-32"))))
    if kind == 3:
        return b'{"a":' * 100_000
    if kind == 4:
        return text.replace("1", "1" + "0" * 5000, 1).encode()
    return text.encode()


def change_archive(data: bytes, rng: np.random.Generator) -> bytes:
    """A zip whose members are renamed, lost, doubled, emptied, deflated, marked as encrypted, or changed inside."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    deflate, target = rng.random() < 0.3, int(rng.integers(len(members)))
    kind = rng.integers(7)
    name, content = members[target]
    if kind == 0:
        members[target] = (pick(rng, (name + "x", "../" + name, "/etc/x", "x", name.upper(), "\u00e9" + name)), content)
    elif kind == 1:
        del members[target]
    elif kind == 2:
        members.append((name, change_bytes(content, rng)))
    elif kind == 3:
        members[target] = (name, b"")
    elif kind in (4, 5):
        members[target] = (name, change_bytes(content, rng))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for member in members:
            if member[0] not in archive.NameToInfo:
                archive.writestr(*member)
    found = bytearray(stream.getvalue())
    if kind == 6:  # says that a member is encrypted, or that it is compressed by another method
        place = found.find(b"PK\x01\x02")
        for _ in range(target):
            place = max(place, found.find(b"PK\x01\x02", place + 1))
        found[place + 8] |= 1
        if rng.random() < 0.5:
            found[place + 10] = int(rng.integers(256))
    return bytes(found)


def change_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG one of whose chunks is changed, with the checksum that belongs to it."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    target = int(rng.integers(len(chunks)))
    kind, content = chunks[target]
    if rng.random() < 0.3:
        kind = pick(
            rng, (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"IEND")
        )
    chunks[target] = (kind, change_bytes(content, rng, 16) if rng.random() < 0.8 else content)
    if rng.random() < 0.2:
        chunks.insert(int(rng.integers(len(chunks))), chunks[target])
    parts = [data[:8]]
    for kind, content in chunks:
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(parts)
