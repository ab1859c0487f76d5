"""Result files: a list of records, one for each benchmark and its settings."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.storage import writing

Record = dict[str, Any]


def key(name: str, asked: Mapping[str, Any]) -> str:
    """What tells a record from others: the benchmark and what was asked for."""
    return f"{name} {json.dumps(asked, sort_keys=True)}"


def read(path: pathlib.Path) -> list[Record]:
    """The records of a file; none if there is no file. Raises ValueError if it is not a results file."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        return list(found["records"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results file ({error}); delete it or choose another --output") from error


def add(path: pathlib.Path, record: Record) -> None:
    """Writes the file with this record in the place of an older one with the same key."""
    records = [old for old in read(path) if old["key"] != record["key"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_text(path, json.dumps({"records": [*records, record]}, indent=1))
