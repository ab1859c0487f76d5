"""Makes the prepared folder of a benchmark from its downloads, in parallel; a stopped run continues where it was."""

import collections
import dataclasses
import fcntl
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Listing, some, there
from ahs_seg_jax.data.prepared import layout, shards
from ahs_seg_jax.data.prepared.shards import Shard
from ahs_seg_jax.progress import Progress
from ahs_seg_jax.storage import writing

LISTED = 20  # failed or strange examples that the facts name


class DataAbsent(ValueError):
    """The downloads of a benchmark are not where they should be, or not all there."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to prepare: `ahs-seg data prepare --help` gives the meaning of each."""

    jobs: int = 1
    limit: int = 0
    partial: bool = False
    again: bool = False


def listings(benchmark: Benchmark, root: pathlib.Path, log: Callable[[str], None]) -> dict[str, Listing]:
    """The files of every split that is there. Raises DataAbsent, saying what to download, if none is."""
    found, missing = {}, []
    for split in benchmark.counts:
        try:
            found[split] = benchmark.find(root, split)
        except FileNotFoundError as error:
            missing.append((split, str(error)))
    if not found:
        raise DataAbsent(absent(benchmark, root, missing[0][1]))
    for split, cause in missing:
        log(f"{benchmark.name} {split} is left out: {cause}")
    return found


def absent(benchmark: Benchmark, root: pathlib.Path, cause: str = "") -> str:
    """The message about a benchmark whose downloads are missing: the cause, what to download, and the next command."""
    cause = cause or there(root)
    steps = (
        f"download and unpack, below {root}:\n{benchmark.downloads}\nthen run: {layout.command(benchmark.name, root)}"
    )
    return f"{benchmark.name}: {cause}\n{steps}"


def count_problems(benchmark: Benchmark, split: str, listing: Listing) -> list[str]:
    """Why these files are not the published split: sentences, or none if their number is right."""
    expected, found = benchmark.counts[split], len(listing.pairs)
    if found in expected:
        return []
    published = " or ".join(f"{count:,}" for count in expected)
    return [f"{found:,} images with labels, the published set has {published}", *listing.problems]


def complete_listings(
    benchmark: Benchmark, root: pathlib.Path, settings: Settings, log: Callable[[str], None]
) -> dict[str, Listing]:
    """As `listings`, but raises DataAbsent if a split is not whole; with `partial`, incomplete splits are accepted."""
    found = listings(benchmark, root, log)
    problems = [f"{split}: {p}" for split, listing in found.items() for p in count_problems(benchmark, split, listing)]
    if problems and not settings.partial:
        raise DataAbsent(
            "\n".join([f"{benchmark.name} in {root} is not complete:", *(f"  - {problem}" for problem in problems)])
            + "\nunpack the archives again, or prepare what is there with --partial (the doctor will refuse it).\n"
            + benchmark.downloads
        )
    return found


def prepare(
    benchmark: Benchmark,
    found: Mapping[str, Listing],
    target: pathlib.Path,
    settings: Settings,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Prepares every split of `found` into `target`/prepared/...; returns the facts (`layout.FACTS`).

    Shards that an earlier run finished are kept. Unreadable examples are left out and named in the facts.

    Raises DataAbsent if a split holds no readable example, and ValueError if the target holds the whole split prepared
    from other files (unless `again`), or another process is writing it.
    """
    folder = layout.prepared_folder(target, benchmark.name)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        plans = {split: _plan(benchmark, split, listing, folder, settings) for split, listing in found.items()}
        kept = _withdraw(benchmark, folder, plans, settings)
        sheets = _write(list(itertools.chain(*plans.values())), settings.jobs, benchmark.name, log)
        splits = dict(kept)
        for split, planned in plans.items():
            splits[split] = _summary(
                benchmark, split, found[split], planned, [sheets[s.path] for s in planned], settings
            )
        return _finish(benchmark, folder, splits)


def _plan(benchmark: Benchmark, split: str, listing: Listing, folder: pathlib.Path, settings: Settings) -> list[Shard]:
    pairs = listing.pairs[: settings.limit] if settings.limit else listing.pairs
    if not pairs:
        raise DataAbsent(f"{benchmark.name} {split}: there is no image with labels")
    return shards.plan(benchmark.name, split, pairs, folder)


@contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a second process out of the folder; the system forgets the lock of a killed one."""
    with (folder / "shards" / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process is preparing {folder}; wait for it, or stop it") from None
        yield


def _withdraw(
    benchmark: Benchmark, folder: pathlib.Path, plans: dict[str, list[Shard]], settings: Settings
) -> dict[str, Any]:
    """Takes the splits in work out of the finished ones, which it returns, and removes leftovers."""
    splits = layout.read_facts(folder).get("splits", {})
    if not settings.again:
        for split, planned in plans.items():
            if _whole(splits.get(split)) and splits[split]["inputs"] != _inputs(planned):
                raise ValueError(
                    f"{folder} holds {splits[split]['images']:,} examples of {split}, prepared from other files than "
                    "those now found (or with another --limit); pass --again to replace them"
                )
    kept = {split: facts for split, facts in splits.items() if split not in plans}
    for file in (layout.FACTS, layout.VERDICT, "dataset_info.json"):
        (folder / file).unlink(missing_ok=True)
    if kept:
        _write_facts(benchmark, folder, kept)
    for leftover in itertools.chain(folder.glob(".*.part"), (folder / "shards").glob(".*.part")):
        leftover.unlink()
    for split, planned in plans.items():
        shards.clean(folder, split, [] if settings.again else planned)
    return kept


def _whole(facts: dict[str, Any] | None) -> bool:
    """Whether a finished split is all of the published one, which nothing replaces unasked."""
    if facts is None:
        return False
    return facts["found"] in facts["expected"] and not facts["limit"] and not facts["failed_count"]


def _inputs(planned: Sequence[Shard]) -> str:
    return hashlib.sha256("\n".join(shard.inputs for shard in planned).encode()).hexdigest()


def _write(
    planned: Sequence[Shard], jobs: int, name: str, log: Callable[[str], None]
) -> dict[pathlib.Path, dict[str, Any]]:
    """Writes the shards that are missing; returns the facts of all of them, also of those an earlier run finished."""
    sheets = {shard.path: facts for shard in planned if (facts := shard.facts())}
    todo = [shard for shard in planned if shard.path not in sheets]
    total, left = (sum(len(shard.pairs) for shard in part) for part in (planned, todo))
    done = total - left
    if done:
        log(f"{name}: {done:,} of {total:,} images were prepared before")
    progress = Progress(total, log, f"{name}:")
    for shard, facts in shards.write_shards(todo, jobs):
        sheets[shard.path] = facts
        done += len(shard.pairs)
        progress.show(done)
    return sheets


def _summary(
    benchmark: Benchmark,
    split: str,
    listing: Listing,
    planned: Sequence[Shard],
    sheets: Sequence[dict[str, Any]],
    settings: Settings,
) -> dict[str, Any]:
    """The facts of a split, from those of its shards; writes the names of its examples."""
    names = [name for sheet in sheets for name in sheet["names"]]
    failed, strange = (list(itertools.chain(*(sheet[key] for sheet in sheets))) for key in ("failed", "strange"))
    if not names:
        raise DataAbsent(f"{benchmark.name} {split}: no image could be read: {listed(failed)}")
    writing.write_text(planned[0].folder / layout.names_file(split), "".join(f"{name}\n" for name in names))
    values: collections.Counter[str] = collections.Counter()
    for sheet in sheets:
        values.update(sheet["values"])
    complete = not count_problems(benchmark, split, listing)
    return {
        "images": len(names),
        "expected": list(benchmark.counts[split]),
        "found": len(listing.pairs),
        "limit": settings.limit if 0 < settings.limit < len(listing.pairs) else 0,
        "listing_problems": [] if complete else list(listing.problems),
        "inputs": _inputs(planned),
        "shard_lengths": [len(sheet["names"]) for sheet in sheets],
        "bytes": sum(sheet["record_bytes"] for sheet in sheets),
        "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "pixels": sum(sheet["pixels"] for sheet in sheets),
        "classes": np.sum([sheet["classes"] for sheet in sheets], axis=0).tolist(),
        "values": dict(values),
        "failed_count": len(failed),
        "failed": failed[:LISTED],
        "strange_count": len(strange),
        "strange": strange[:LISTED],
    }


def _finish(benchmark: Benchmark, folder: pathlib.Path, splits: dict[str, Any]) -> dict[str, Any]:
    """Writes TFDS's metadata, then the facts, which mark the folder as complete."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=benchmark.name, filetype_suffix=layout.SUFFIX
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=layout.features(benchmark),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=facts["shard_lengths"],
                num_bytes=facts["bytes"],
                filename_template=template.replace(split=split),
            )
            for split, facts in sorted(splits.items())
        ],
        version=layout.VERSION,
        check_data=False,
        description=f"{benchmark.name}: images and class indices, for ahs_seg_jax",
    )
    return _write_facts(benchmark, folder, splits)


def _write_facts(benchmark: Benchmark, folder: pathlib.Path, splits: dict[str, Any]) -> dict[str, Any]:
    facts = {
        "name": benchmark.name,
        "version": layout.VERSION,
        "vocabulary_sha256": benchmark.vocabulary.sha256,
        "splits": splits,
    }
    writing.write_json(folder / layout.FACTS, facts, sort_keys=True)
    return facts


def listed(failures: Sequence[dict[str, Any]]) -> str:
    """The first few of failed examples with their causes."""
    return some([failure["cause"] for failure in failures])
