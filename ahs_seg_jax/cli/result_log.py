"""What a run has finished: a line of JSON for each image, in files beside the results, and the summary made of them.

The lines stay on the disk. In memory are only the names, what file each result is of, and where its line stands, so
that a folder of many images takes no more memory than a small one.

On a disk a run appends to one file, `results.jsonl`; a part of the images (`--shard`) has its own. Nothing can be
appended to an object in a bucket: there a run writes its lines as new objects now and then, and keeps a copy of all of
them on the disk. What a killed run had not written yet is segmented again.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from ahs_seg_jax.cli.image_jobs import WHOLE, Shard
from ahs_seg_jax.storage import paths, writing

RESULTS, SUMMARY = "results", "summary"  # how the names of these files begin
NO_UTF8 = "backslashreplace"  # a file's name that is no UTF-8 becomes an escape, which JSON reads back as that name
LINES_TOGETHER, SECONDS_TOGETHER = 100, 20.0  # of what is written to a bucket at once


@dataclasses.dataclass(frozen=True)
class _Line:
    """Where an image's entry stands, and the fingerprint of the file it is about."""

    file: pathlib.Path
    offset: int
    fingerprint: tuple[Any, ...]


class ResultLog:
    """The entries of the images of one `shard` in a folder of results, on a disk or in a bucket."""

    def __init__(self, folder: Any, shard: Shard, fresh: bool = False, parts: int | None = None):
        """With `fresh`, what earlier runs of this shard have left is forgotten, and what others have left not read.

        Of several entries of one image the one in the files of this number of `parts` counts, by default the shard's.
        """
        self._folder, self._shard, self._parts = folder, shard, parts or shard.count
        self._lines: dict[str, _Line] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._unsent: list[str] = []
        self._sent = time.monotonic()
        if fresh:
            for file in self._files(shard.mark):
                file.unlink(missing_ok=True)
        self._own = self._in_a_bucket(fresh) if paths.is_remote(folder) else self._on_a_disk(fresh)

    def _files(self, mark: str) -> list[Any]:
        """The files of lines whose names begin with this mark, those of this number of parts last."""
        if paths.is_remote(self._folder):
            found = [paths.location(address) for address, _ in paths.objects(f"{self._folder}/{RESULTS}{mark}*.jsonl")]
        else:
            found = list(self._folder.glob(f"{RESULTS}{mark}*.jsonl"))
        here = re.compile(rf"\.\d+-of-0*{self._parts}\.")
        return sorted(found, key=lambda file: (bool(here.search(file.name)), file.name))

    def _on_a_disk(self, fresh: bool) -> pathlib.Path:
        own: pathlib.Path = self._folder / f"{RESULTS}{self._shard.mark}.jsonl"
        own_last = self._parts == self._shard.count
        for file in [] if fresh else sorted(self._files(""), key=lambda file: own_last and file == own):
            self._read(file)
        if own.is_file() and own.stat().st_size:
            with own.open("rb+") as lines:
                lines.seek(-1, 2)
                if lines.read(1) != b"\n":  # a line that was being written when a run was killed
                    lines.write(b"\n")
        return own

    def _in_a_bucket(self, fresh: bool) -> pathlib.Path:
        self._scratch = tempfile.TemporaryDirectory()
        own = pathlib.Path(self._scratch.name) / f"{RESULTS}.jsonl"
        with own.open("wb") as lines:
            for file in [] if fresh else self._files(""):
                lines.write(file.read_bytes().rstrip(b"\n") + b"\n")
        self._read(own)
        return own

    def _read(self, file: pathlib.Path) -> None:
        offset = 0
        with file.open("rb") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):  # the line that was written when a run was killed
                    entry = json.loads(line)
                    # Another line that no run wrote is of no image either: what it was about is segmented again.
                    if isinstance(entry, dict) and isinstance(entry.get("name"), str) and "file" in entry:
                        self._keep(entry, file, offset)
                offset += len(line)

    def _keep(self, entry: dict[str, Any], file: pathlib.Path, offset: int) -> None:
        if self._shard.holds(entry["name"]):
            fingerprint = entry["file"]
            self._lines[entry["name"]] = _Line(
                file, offset, tuple(fingerprint) if isinstance(fingerprint, list) else (fingerprint,)
            )

    def __len__(self) -> int:
        return len(self._lines)

    def fingerprint(self, name: str) -> list[Any] | None:
        """Of the file that the finished image of this name was read from; None if there is none."""
        line = self._lines.get(name)
        return None if line is None else list(line.fingerprint)

    def forget(self, name: str) -> None:
        """The image of this name is not finished any more."""
        self._lines.pop(name, None)

    def add(self, entry: dict[str, Any]) -> None:
        """Notes a finished image: `name`, `file` (its fingerprint) and whatever else is known about it, JSON values."""
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        with self._own.open("ab") as lines:
            offset = lines.tell()
            lines.write(text.encode("utf-8", NO_UTF8))
        self._keep(entry, self._own, offset)
        if self._scratch:
            self._unsent.append(text)
            if len(self._unsent) >= LINES_TOGETHER or time.monotonic() - self._sent > SECONDS_TOGETHER:
                self.send()

    def send(self) -> None:
        """Writes the lines to the bucket that are not there yet."""
        if self._unsent:
            moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
            name = f"{RESULTS}{self._shard.mark}.{moment}.{uuid.uuid4().hex[:8]}.jsonl"
            writing.write_bytes(self._folder / name, "".join(self._unsent).encode("utf-8", NO_UTF8))
            self._unsent.clear()
        self._sent = time.monotonic()

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries, sorted by name."""
        with contextlib.ExitStack() as stack:
            files = {
                path: stack.enter_context(path.open("rb")) for path in {line.file for line in self._lines.values()}
            }
            for name in sorted(self._lines):
                line = self._lines[name]
                files[line.file].seek(line.offset)
                yield json.loads(files[line.file].readline())

    def close(self) -> None:
        """Writes what is missing in the bucket, and removes the copy."""
        if self._scratch:
            self.send()
            self._scratch.cleanup()
            self._scratch = None


def write_summary(
    path: Any, about: dict[str, Any], entries: Iterator[dict[str, Any]], failed: Sequence[dict[str, str]], done: bool
) -> None:
    """Writes `about`, whether the run is finished, the entries and the failed images as one JSON file, line by line."""
    with writing.whole(path) as unfinished, unfinished.open("w", encoding="utf-8", errors=NO_UTF8) as file:
        as_text = lambda value: json.dumps(value, ensure_ascii=False)
        for key, value in (about | {"finished": done}).items():
            file.write(f"{'{' if key == next(iter(about)) else ''}{as_text(key)}: {as_text(value)},\n")
        file.write('"images": [')
        for number, entry in enumerate(entries):
            file.write(f"{',' if number else ''}\n{as_text(entry)}")
        file.write(f'],\n"failed": {as_text(list(failed))}}}\n')


def merge_shards(folder: Any, count: int, about: dict[str, Any]) -> list[int]:
    """Writes the summary of all parts if each of them is finished; returns the numbers of those that are not.

    Parts may finish on different machines at once: each writes that it is finished before it looks at the others, so
    that the last one sees all of them. Two that see all of them write the same summary.
    """
    missing: list[int] = []
    failed: list[dict[str, str]] = []
    for number in range(1, count + 1):
        try:
            found = json.loads((folder / f"{SUMMARY}{Shard(number, count).mark}.json").read_text("utf-8"))
            finished = found["finished"] and found["settings"] == about["settings"]
            failed += found["failed"] if finished else []
        except (OSError, ValueError, KeyError, TypeError):
            finished = False
        if not finished:
            missing.append(number)
    if not missing:
        log = ResultLog(folder, WHOLE, parts=count)
        write_summary(folder / f"{SUMMARY}.json", about, log.entries(), failed, done=True)
        log.close()
    return missing
