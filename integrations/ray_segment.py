"""Segments a corpus that is larger than a machine, as a job of Ray Data on its cluster: the extra `ray`.

    python -m integrations.ray_segment photos/ labels/ --classes "cat; sofa, couch" --model runs/vitb --workers 8

Images come from a folder, from Parquet files (`--columns name,image`: texts and encoded images) or from WebDataset
shards (`.tar`); on disks that every worker sees, or in buckets. Each worker (a GPU, a TPU host, some CPUs) has one
Segmenter. The corpus is divided into parts that depend on the corpus alone: some of a folder's images, a row group, a
shard. A part's rows are one file, `parts/KEY.parquet`, which appears when the part is finished. A worker that is lost
loses the part it was at, which another one does again; the same command continues a job that was stopped. So no image
is lost, and none is there twice. Images that cannot be segmented are rows with an `error`; `summary.json` lists them.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ahs_seg_jax.cli import options
from ahs_seg_jax.cli.image_jobs import BUCKETS, Job, find_images, number_of
from ahs_seg_jax.data.images import IMAGE_SUFFIXES
from ahs_seg_jax.storage import paths, writing

SCHEMA = pa.schema([(name, pa.string()) for name in ("name", "classes", "rle", "error")])
IMAGES_OF_A_PART = 256  # of a folder, at most about


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the images: `entries` of a folder (name, path), or of one file all of them or a row group."""

    key: str  # of its file of rows
    source: str
    digest: str  # of what it is made from: a part that has changed is done again
    entries: tuple[tuple[str, str], ...] = ()
    row_group: int = -1

    def images(self, columns: tuple[str, str]) -> Iterator[tuple[str, Any]]:
        """(name, what `open_image` takes) of each image."""
        for name, path in self.entries:
            yield name, paths.location(path).read_bytes() if paths.is_remote(path) else path
        if self.row_group >= 0:
            with fsspec.open(self.source, "rb") as file:
                table = pq.ParquetFile(file).read_row_group(self.row_group, list(columns))
            yield from zip(*(table[column].to_pylist() for column in columns), strict=True)
        elif not self.entries:
            with fsspec.open(self.source, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as shard:
                for member in shard:
                    if member.isfile() and pathlib.PurePath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                        yield member.name.rpartition(".")[0], shard.extractfile(member).read()  # type: ignore[union-attr]


def find_parts(source: str) -> list[Part]:
    """The parts of a folder of images, or of Parquet files or shards: one file, or all below a folder."""
    for suffix in (".parquet", ".tar"):
        if files := _files(source, suffix):
            return [part for file, version in files for part in _parts_of(file, version, suffix)]
    jobs, count = find_images([source]), 1
    while count * IMAGES_OF_A_PART < len(jobs):  # a power of two, so that a few more images change a few parts only
        count *= 2
    held: dict[int, list[Job]] = {}
    for job in jobs:
        held.setdefault(number_of(job.name.as_posix(), count), []).append(job)
    parts = []
    for number in sorted(held):
        entries = tuple((job.name.as_posix(), str(job.path)) for job in held[number])
        versions = [job.fingerprint() for job in held[number]]
        parts.append(Part(f"{number:05d}-of-{count:05d}", source, _digest(entries, versions), entries))
    return parts


def _files(source: str, suffix: str) -> list[tuple[str, Any]]:
    if paths.is_remote(source):
        paths.check(source, "the corpus", BUCKETS)
        return [(address, version) for address, version in paths.objects(source) if address.endswith(suffix)]
    path = pathlib.Path(source)
    found = [path] if path.suffix == suffix else sorted(path.rglob(f"*{suffix}"))
    return [(str(file), [file.stat().st_size, file.stat().st_mtime_ns]) for file in found]


def _parts_of(file: str, version: Any, suffix: str) -> Iterator[Part]:
    key = f"{pathlib.PurePath(file).stem}-{_digest(file)[:8]}"
    if suffix == ".tar":
        yield Part(key, file, _digest(version))
        return
    with fsspec.open(file, "rb") as opened:
        groups = pq.ParquetFile(opened).num_row_groups
    for number in range(groups):
        yield Part(f"{key}-{number:05d}", file, _digest(version), row_group=number)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


class Worker:
    """One Segmenter. Called with a part, it writes the part's file of rows."""

    def __init__(self, output: str, model: str, names: tuple[str, ...], write: str, columns: tuple[str, str]):
        from ahs_seg_jax.segmenter import Segmenter

        self._segmenter = Segmenter.from_pretrained(model).set_vocabulary(names)
        self._output, self._write, self._columns = paths.location(output), write, columns

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = Part(**json.loads(row["part"]))
        self._seen: set[str] = set()
        rows = [self._row(name, image) for name, image in part.images(self._columns)]
        table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"digest": part.digest}))
        file = io.BytesIO()
        pq.write_table(table, file)
        writing.write_bytes(_rows_of(self._output, part), file.getvalue())
        return {"key": part.key, "images": len(rows), "failed": sum(bool(row["error"]) for row in rows)}

    def _row(self, name: str, image: Any) -> dict[str, str | None]:
        try:
            if name in self._seen:
                raise ValueError(f"another image of the same part is called {name}")
            self._seen.add(name)
            result = self._segmenter(image)
            if self._write == "png":
                with writing.Staged() as staged:
                    result.save_png(staged(self._output / "labels" / f"{_inside(name)}.png"))
            rle = json.dumps(result.to_coco()) if self._write == "rle" else None
            return {"name": name, "classes": json.dumps(result.areas), "rle": rle, "error": None}
        except Exception as error:  # whatever happens to one image, the others are segmented
            return {"name": name, "classes": None, "rle": None, "error": options.cause(error)}


def _inside(name: str) -> pathlib.PurePosixPath:
    """A name of a shard or a table as a path below a folder. Raises ValueError if it leads out of it."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is not the name of a file below a folder")
    return path


def _rows_of(output: Any, part: Part) -> Any:
    return output / "parts" / f"{part.key}.parquet"


def _is_done(output: Any, part: Part) -> bool:
    try:
        with _rows_of(output, part).open("rb") as file:
            return bool((pq.read_schema(file).metadata or {}).get(b"digest") == part.digest.encode())
    except (OSError, pa.ArrowInvalid):
        return False


def segment(source: str, output: str, settings: dict[str, Any], workers: int, **resources: Any) -> dict[str, Any]:
    """Segments what is not done yet, on the cluster that `ray.init` has joined; returns and writes the summary.

    `settings` are the arguments of Worker but the first; `resources` what each worker takes (`num_gpus=1`).
    Raises ValueError for a folder with results of other settings.
    """
    import ray

    paths.check(output, "the output", BUCKETS)
    place, parts = paths.location(output), find_parts(source)
    if len({part.key for part in parts}) != len(parts):
        raise ValueError(f"two files of {source} would have the same results")
    (place / "parts").mkdir(parents=True, exist_ok=True)
    about, about_file = json.loads(json.dumps(settings)), place / "settings.json"
    if about_file.exists() and (before := json.loads(about_file.read_text())) != about:
        raise ValueError(f"{output} holds results with the settings {before}; choose another folder")
    writing.write_json(about_file, about)
    missing = [part for part in parts if not _is_done(place, part)]
    print(f"{len(parts) - len(missing)} of {len(parts)} parts were done before", flush=True)
    if missing:
        items = [{"part": json.dumps(dataclasses.asdict(part))} for part in missing]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map(
            Worker,
            fn_constructor_kwargs={"output": output, **settings},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            **resources,
        )
        for row in done.iter_rows():
            print(f"{row['key']}: {row['images']} images, {row['failed']} failed", flush=True)
    return _summary(place, parts)


def _summary(place: Any, parts: list[Part]) -> dict[str, Any]:
    """Counts the rows of all parts and lists those that failed, and names that occur in two parts.

    Files of parts that are no more are removed.
    """
    keys, images, failed = {part.key for part in parts}, 0, []
    seen: set[str] = set()
    for file in (place / "parts").iterdir():
        if file.name.removesuffix(".parquet") not in keys:
            file.unlink()
    for part in parts:
        with _rows_of(place, part).open("rb") as file:
            rows = pq.read_table(file, columns=["name", "error"]).to_pylist()
        images += len(rows)
        failed += [{"image": row["name"], "reason": row["error"]} for row in rows if row["error"]]
        twice = "an image of another part has the same name; its labels and this one's took the same place"
        failed += [{"image": row["name"], "reason": twice} for row in rows if row["name"] in seen and not row["error"]]
        seen |= {row["name"] for row in rows}
    summary = {"images": images, "parts": len(parts), "failed": failed}
    writing.write_json(place / "summary.json", summary)
    return summary


def main() -> int:
    """The command line; returns 1 if images failed."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--classes", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--write", choices=["png", "rle", "areas"], default="png")
    parser.add_argument("--columns", default="name,image", help="of Parquet files: the one of names, the one of images")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--cpus", type=float, default=1, help="of each worker")
    given = parser.parse_args()
    name, image = given.columns.split(",")
    settings = {"model": given.model, "names": options.split_names(given.classes), "write": given.write}
    ray.init(ignore_reinit_error=True)
    resources = {"num_cpus": given.cpus, "num_gpus": given.gpus}
    summary = segment(given.source, given.output, settings | {"columns": (name, image)}, given.workers, **resources)
    print(f"{summary['images'] - len(summary['failed'])} of {summary['images']} images in {given.output}")
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
