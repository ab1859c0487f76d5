"""Writes commits, files, sizes and hashes into the table of the model zoo, from the hub's metadata.

    python scripts/pin_zoo.py                      # what the table leaves out, of all models
    python scripts/pin_zoo.py --again clip-vitb16  # the main branch's newest commit, of one
    python scripts/pin_zoo.py --check              # exit code 1 if the hub says something else than the table

No weights are downloaded: the hub knows the sha256 of what it stores. Look at the difference before you commit it.
"""

import argparse
import json
import pathlib
import sys

from ahs_seg_jax.checkpoints.hub import download
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.errors import CheckpointError

TABLE = pathlib.Path(zoo.__file__).with_name("models.toml")
PINNED = ("revision", "file", "bytes", "sha256")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; all by default")
    parser.add_argument("--again", action="store_true", help="pin the newest commit, whatever the table says")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--table", type=pathlib.Path, default=TABLE)
    options = parser.parse_args(arguments)
    text = options.table.read_text("utf-8")
    entries = zoo.parse(text, str(options.table))
    wanted, failed, differing = options.names or list(entries), 0, 0
    for name in wanted:
        try:
            found = pins(entries[name], options.again)
        except (CheckpointError, KeyError) as error:
            print(f"{name}: {error if isinstance(error, CheckpointError) else 'is not in the table'}", file=sys.stderr)
            failed += 1
            continue
        changes = {key: value for key, value in found.items() if value != getattr(entries[name], key)}
        differing += bool(changes)
        for key, value in changes.items():
            print(f"{name}.{key}: {getattr(entries[name], key) or 'unset'} -> {value}")
        text = written(text, name, changes)
    if not options.check:
        zoo.parse(text, "the new table")
        options.table.write_text(text, "utf-8")
    return int(failed > 0 or (options.check and differing > 0))


def pins(entry: zoo.Entry, again: bool = False) -> dict[str, str | int]:
    """What the hub says of the entry's weights. Raises CheckpointError if it has another file than the table knows."""
    name = zoo.HubName(entry.repo, entry.kind, "" if again else entry.revision, entry.file)
    commit, files = download.metadata(name)
    file, size, sha256 = files[0]
    if len(files) != 1 or not sha256:
        raise CheckpointError(f"{name} is not one file that the hub has a sha256 of")
    if entry.sha256 and not again and sha256 != entry.sha256:
        raise CheckpointError(f"{name} has sha256 {sha256}, the table {entry.sha256}; --again takes the hub's")
    return dict(zip(PINNED, (commit, file, size, sha256), strict=True))


def written(text: str, name: str, values: dict[str, str | int]) -> str:
    """The table's text with these values in the section of `name`; all else, comments too, stays as it is."""
    start = text.index(f"[{name}]\n")
    end = text.find("\n[", start)
    section = text[start : end if end >= 0 else len(text)].rstrip("\n")
    lines = section.splitlines()
    for key in PINNED:
        if key in values:
            line = f"{key} = {json.dumps(values[key])}"
            places = [number for number, old in enumerate(lines) if old.startswith(f"{key} = ")]
            if places:
                lines[places[0]] = line
            else:
                before = ("title = ", "repo = ", "kind = ", *(f"{k} = " for k in PINNED[: PINNED.index(key)]))
                lines.insert(1 + max(n for n, old in enumerate(lines) if old.startswith(before)), line)
    section = "\n".join(lines)
    return text[:start] + section + ("\n" + text[end:] if end >= 0 else "\n")


if __name__ == "__main__":
    sys.exit(main())
