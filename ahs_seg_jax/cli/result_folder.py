"""The folder of results of `ahs-seg segment`: a run that was stopped, or killed, goes on in it."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax.cli.image_jobs import WHOLE, Job, Shard, streamed
from ahs_seg_jax.cli.result_log import SUMMARY, ResultLog, merge_shards, write_summary
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.segmenter import Segmentation, Segmenter, large_tiff
from ahs_seg_jax.storage import paths, writing
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary, first_synonym


def _file_name(name: str) -> str:
    """A name as a part of a file's name on every system: letters and digits of any script."""
    return re.sub(r"[^\w]+", "_", first_synonym(name)).strip("_")[:40]


class ResultFolder:
    """The folder of results: `labels/`, `overlays/`, `coco/`, `heat_maps/`, a line for each image, and a summary.

    It lies on a disk or in a bucket, and several processes may fill it, each with its `shard` of the images.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Settings,
        overlays: bool,
        coco: bool,
        heat_maps: bool,
        again: bool,
        shard: Shard = WHOLE,
    ):
        self._path, self._shard = paths.location(path), shard
        self._overlays, self._coco, self._heat_maps = overlays, coco, heat_maps
        self._windows = settings.windows
        self._about = {"settings": settings.described(), "versions": versions()}
        self._present: set[str] | None = None  # what is in the bucket, which is asked once
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            for before in self._summaries():
                if not again:
                    self._check(before)
                elif before == self._own_summary or not shard.mark:
                    before.unlink()
            self._log = ResultLog(self._path, shard, fresh=again)
            if paths.is_remote(self._path):
                self._present = set()
                for address, _ in paths.objects(str(self._path)):
                    self._present |= {address, *map(str, paths.location(address).parents)}
            self._write_summary([], finished=False)
        except OSError as error:
            raise OSError(f"results cannot be written to {path} ({error}); choose another --output") from error

    @property
    def _own_summary(self) -> Any:
        return self._path / f"{SUMMARY}{self._shard.mark}.json"

    def _summaries(self) -> list[Any]:
        """The summaries that earlier runs have left, of the whole and of parts."""
        if paths.is_remote(self._path):
            return [paths.location(address) for address, _ in paths.objects(f"{self._path}/{SUMMARY}*.json")]
        return sorted(self._path.glob(f"{SUMMARY}*.json"))

    def _check(self, file: Any) -> None:
        try:
            before = dict(json.loads(file.read_text("utf-8"))["settings"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged ({type(error).__name__}), so it does not tell with which settings the results "
                f"beside "
                "it were made; choose another --output, or start over with --overwrite"
            ) from error
        settings = self._about["settings"]
        before.setdefault("method", "aggregator")  # of versions that had no other
        differing = [name for name, value in settings.items() if before.get(name) != value]
        if differing:
            raise ValueError(
                f"{self._path} holds results with another {', '.join(differing)}; choose another --output, or start "
                "over with --overwrite"
            )

    def has(self, job: Job) -> bool:
        """Whether the image's results are here, of the file as it is now."""
        known = self._log.fingerprint(job.name.as_posix())
        wanted = [path for path in (*self._targets(job), self._maps(job)) if path]
        return known is not None and known == job.fingerprint() and all(map(self._exists, wanted))

    def _exists(self, path: Any) -> bool:
        """Whether results are there: a file, or a folder with files."""
        if self._present is None:
            return bool(path.exists())
        return str(path) in self._present

    def forget_another_file(self, job: Job) -> None:
        """Removes the results of an earlier file of this name, so that none of them stands for the one that is now."""
        known = self._log.fingerprint(job.name.as_posix())
        if known is not None and (job.version or job.path.is_file()) and known != job.fingerprint():
            self._log.forget(job.name.as_posix())
            for path in filter(None, self._targets(job)):
                path.unlink(missing_ok=True)
            if (maps := self._maps(job)) and maps.exists():
                maps.rmtree() if paths.is_remote(maps) else shutil.rmtree(maps, ignore_errors=True)

    def _targets(self, job: Job) -> tuple[Any, Any | None, Any | None]:
        place = lambda folder, suffix: self._path / folder / f"{job.name}{suffix}"
        overlay = place("overlays", ".png") if self._overlays else None
        if self._windows and streamed(job):
            return place("labels", ".tif"), overlay, None  # masks of such sizes are no COCO annotations
        return place("labels", ".png"), overlay, place("coco", ".json") if self._coco else None

    def _maps(self, job: Job) -> Any:
        """The folder of an image's heat maps."""
        return self._path / "heat_maps" / job.name if self._heat_maps else None

    def write(self, job: Job, result: Segmentation) -> dict[str, Any]:
        """The files of one image, all or none; its line in the log comes last, and is returned."""
        labels, overlay, coco = self._targets(job)
        with writing.Staged() as staged:
            result.save_png(staged(labels))
            if overlay:
                result.overlay().save(staged(overlay))
            if coco:
                staged(coco).write_text(json.dumps(result.to_coco(str(job.name))), "utf-8")
            if maps := self._maps(job):
                for index, name in enumerate(result.names):
                    result.heat_map(name).save(staged(maps / f"{index:03d}_{_file_name(name)}.png"))
        return self._note(job, result.summary())

    def stream(self, job: Job, segmenter: Segmenter, vocabulary: Vocabulary, settings: Settings) -> dict[str, Any]:
        """As `write`, of a TIFF that is never whole in memory; its overlay shows it reduced."""
        labels, overlay, _ = self._targets(job)
        labels.parent.mkdir(parents=True, exist_ok=True)
        summary = large_tiff.segment_tiff(
            segmenter, job.path, labels, vocabulary, settings.windows, unknown=settings.unknown
        )
        if overlay:
            with writing.Staged() as staged:
                large_tiff.overlay(job.path, labels).save(staged(overlay))
        return self._note(job, summary)

    def _note(self, job: Job, summary: dict[str, Any]) -> dict[str, Any]:
        entry = {"name": job.name.as_posix(), "file": job.fingerprint(), **summary}
        self._log.add(entry)
        return entry

    def finish(self, failed: Sequence[tuple[Job, str]]) -> list[int]:
        """Writes the summary of everything in the folder; returns the parts that must finish before there is one."""
        try:
            self._log.send()
            self._write_summary([{"image": str(job.path), "reason": reason} for job, reason in failed], finished=True)
            return merge_shards(self._path, self._shard.count, self._about) if self._shard.mark else []
        except OSError as error:
            raise OSError(
                f"the summary of {self._path} cannot be written ({error}); make room, and start the same command again"
            ) from error

    def close(self) -> None:
        """Notes in the bucket what a run that is stopped has finished."""
        self._log.close()

    def _write_summary(self, failed: list[dict[str, str]], finished: bool) -> None:
        """Of the whole, with an entry for each image; of a part, without: `merge_shards` brings them together."""
        if self._shard.mark:
            content = self._about | {"finished": finished, "images": len(self._log), "failed": failed}
            writing.write_json(self._own_summary, content, ensure_ascii=False)
        else:
            write_summary(self._own_summary, self._about, self._log.entries(), failed, finished)
