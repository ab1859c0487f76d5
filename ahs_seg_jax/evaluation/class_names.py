"""Class names of an evaluation from the user's disk, in place of the packaged ones.

Published programs often score with names and synonyms of their own choice. Such lists are other people's texts: they
are read from where the user has them, one class a line, in the order of the benchmark's indices, synonyms after ", ".
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

from ahs_seg_jax.data.source import Source
from ahs_seg_jax.vocabulary import Vocabulary


def file_of(given: str | os.PathLike[str], benchmark: str) -> pathlib.Path:
    """The file of class names: `given` itself, or if that is a folder `<given>/<benchmark>.txt`."""
    path = pathlib.Path(given).expanduser()
    return path / f"{benchmark}.txt" if path.is_dir() else path


def _read(path: pathlib.Path, **settings: Any) -> Vocabulary:
    """The names of a file, with a space after each comma between synonyms: not all programs write one."""
    found = Vocabulary.from_file(path, **settings)
    words = ([word.strip() for word in name.split(",") if word.strip()] for name in found.names)
    return dataclasses.replace(found, names=tuple(map(", ".join, words)))


def use(source: Source, given: str | os.PathLike[str], benchmark: str) -> None:
    """Replaces the names of the source's vocabulary; prompts and synonym rule stay.

    Raises FileNotFoundError, or ValueError for a file that is no list of names or has another number of classes.
    """
    path, before = file_of(given, benchmark), source.vocabulary
    found = _read(path, templates=before.templates, synonyms=before.synonyms)
    merged = getattr(source, "merge_predictions", None) is not None
    least = len(getattr(source, "scored_names", before.names))
    if len(found) != len(before) and not (merged and len(found) >= least):
        wanted = f"at least {least} lines, of which those from line {least} on are background" if merged else "one each"
        raise ValueError(
            f"{path} names {len(found)} classes where {benchmark} has {least if merged else len(before)}; it needs "
            f"{wanted}, in the order of the benchmark's indices ({before.names[0]!r}, {before.names[1]!r}, ...)"
        )
    source.vocabulary = dataclasses.replace(found, groups=before.groups if len(found) == len(before) else ())


def described(given: str | os.PathLike[str], benchmark: str) -> dict[str, Any] | None:
    """JSON-ready facts of the file, for results; None if the packaged names are used.

    `queries` counts all names and synonyms.
    """
    if not str(given):
        return None
    path = file_of(given, benchmark)
    queries = sum(len(name.split(", ")) for name in _read(path).names)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "queries": queries}
