"""What was found at the first use of a model whose commit and hash the table does not know.

From then on, its name means the same bytes on this machine: the commit that was recorded, with the hash that was.
"""

import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

from ahs_seg_jax.checkpoints.hub.download import Fetched
from ahs_seg_jax.checkpoints.zoo.table import Entry
from ahs_seg_jax.errors import CheckpointError, WriteError
from ahs_seg_jax.storage import user_cache, writing

_FORMS = {"revision": r"[0-9a-f]{40}", "file": r".+", "sha256": r"[0-9a-f]{64}"}


def path_of(entry: Entry) -> pathlib.Path:
    """The file of a model's record."""
    return user_cache.folder() / "zoo" / f"{entry.name}.json"


def pinned(entry: Entry) -> Entry:
    """The entry with what was recorded in the place of what the table leaves out. Raises CheckpointError for damage."""
    path = path_of(entry)
    if (entry.revision and entry.sha256) or not path.is_file():
        return entry
    try:
        content = json.loads(path.read_bytes())
        fields = {key: content[key] for key in (*_FORMS, "bytes")}
        whole = all(re.fullmatch(form, fields[key]) for key, form in _FORMS.items()) and fields["bytes"] > 0
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is damaged; remove it, and {entry.name} is recorded anew")
    known = {key: getattr(entry, key) for key in fields if getattr(entry, key)}
    if content.get("repo") != entry.repo or fields | known != fields:
        return entry  # the table has been changed since
    return dataclasses.replace(entry, **fields)


def record(entry: Entry, found: Fetched) -> None:
    """Writes down what was found, unless the table knows it. A cache that cannot be written is told in a line."""
    path = path_of(entry)
    if (entry.revision and entry.sha256) or not found.sha256:
        return
    content: dict[str, Any] = {"repo": entry.repo, "revision": found.name.revision, "file": found.name.file}
    content |= {"bytes": found.bytes, "sha256": found.sha256}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_json(path, content)
    except (OSError, WriteError) as error:
        print(f"{entry.name}: its hash is not recorded ({error}), so that a change would go unnoticed", file=sys.stderr)
