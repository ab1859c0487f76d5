"""The folder of results of `ahs-seg segment`: a run that was stopped, or killed, goes on in it."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.cli import result_formats, segment_video
from ahs_seg_jax.cli.image_jobs import WHOLE, Job, Shard, streamed
from ahs_seg_jax.cli.result_formats import ImageFile, Listed, Result
from ahs_seg_jax.cli.result_log import SUMMARY, ResultLog, merge_shards, write_summary
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.pictures import png
from ahs_seg_jax.segmenter import Segmentation, Segmenter, large_tiff, video
from ahs_seg_jax.storage import paths, writing
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary, first_synonym


def _file_name(name: str) -> str:
    """A name as a part of a file's name on every system: letters and digits of any script."""
    return re.sub(r"[^\w]+", "_", first_synonym(name)).strip("_")[:40]


class ResultFolder:
    """The folder of results: files of `result_formats`, `heat_maps/`, a line for each image, and a summary.

    It lies on a disk or in a bucket, and several processes may fill it, each with its `shard` of the images.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Settings,
        *,
        overlays: bool = True,
        annotations: Sequence[str] = (),
        heat_maps: bool = False,
        again: bool = False,
        shard: Shard = WHOLE,
    ):
        self._path, self._shard, self._settings = paths.location(path), shard, settings
        self._overlays, self._heat_maps = overlays, heat_maps
        self._annotations = [result_formats.ANNOTATIONS[name] for name in annotations]
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
        before = {"activation": settings["activation"], "weights": settings["weights"]} | before  # which came later
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
            for path in self._targets(job):
                path.unlink(missing_ok=True)
            if (maps := self._maps(job)) and maps.exists():
                maps.rmtree() if paths.is_remote(maps) else shutil.rmtree(maps, ignore_errors=True)

    def _targets(self, job: Job) -> list[Any]:
        """The files of an image."""
        if video.is_video(job.path):
            return [*self._areas(job), *([self._film(job)] if self._overlays else [])]
        if self._by_windows(job):
            kept = [path for path, _ in self._of_geotiff(job)]
            return [self._geotiff(job), *([self._overlay(job)] if self._overlays else []), *kept]
        return [file.path(self._path, job.name) for file in self._files()]

    def _files(self) -> list[ImageFile]:
        overlays = (result_formats.OVERLAYS,) if self._overlays else ()
        formats = (result_formats.LABELS, *overlays, *self._annotations)
        return [file for kind in formats for file in kind.files]

    def _by_windows(self, job: Job) -> bool:
        """Whether neither the image nor its labels are ever whole in memory."""
        return self._settings.windows is not None and streamed(job)

    def _geotiff(self, job: Job) -> Any:
        return self._path / "labels" / f"{job.name}.tif"

    def _overlay(self, job: Job) -> Any:
        return self._path / "overlays" / f"{job.name}.png"

    def _of_geotiff(self, job: Job) -> list[tuple[Any, Callable[[Any, Any], None]]]:
        """The annotations that such labels have; masks of their sizes are no COCO annotations."""
        kinds = self._annotations
        return [(kind.files[0].path(self._path, job.name), kind.of_geotiff) for kind in kinds if kind.of_geotiff]

    def _maps(self, job: Job) -> Any:
        """The folder of an image's heat maps."""
        return self._path / "heat_maps" / job.name if self._heat_maps else None

    def write(self, job: Job, segmentation: Segmentation) -> dict[str, Any]:
        """The files of one image, all or none; returns its summary. For any thread."""
        result = Result(job.name.as_posix(), job.file_name, segmentation, self._settings.first_index)
        with writing.Staged() as staged:
            for file in self._files():
                file.write(result, staged(file.path(self._path, job.name)))
            if maps := self._maps(job):
                for index, name in enumerate(segmentation.names):
                    target = staged(maps / f"{index:03d}_{_file_name(name)}.png")
                    target.write_bytes(png.encode(np.asarray(segmentation.heat_map(name))))
        return segmentation.summary()

    def stream(self, job: Job, segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, Any]:
        """As `write`, of a TIFF that is never whole in memory; its overlay shows it reduced."""
        labels, settings = self._geotiff(job), self._settings
        labels.parent.mkdir(parents=True, exist_ok=True)
        summary = large_tiff.segment_tiff(
            segmenter,
            job.path,
            labels,
            vocabulary,
            settings.windows,
            unknown=settings.unknown,
            first_index=settings.first_index,
            bands=settings.bands,
            rescale=settings.rescale,
        )
        with writing.Staged() as staged:
            if self._overlays:
                picture = large_tiff.overlay(job.path, labels, bands=settings.bands, rescale=settings.rescale)
                staged(self._overlay(job)).write_bytes(png.encode(np.asarray(picture)))
            for path, write in self._of_geotiff(job):
                write(labels, staged(path))
        return summary

    def film(self, job: Job, segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, Any]:
        """As `write`, of a film, of which one frame is in memory at a time; its frames' labels are in a folder."""
        labels, names = self._path / "labels" / job.name, vocabulary.names
        path = paths.on_disk(job.path, "a film")
        entries = segment_video.segment_film(segmenter, path, labels, vocabulary, self._settings, job.fingerprint())
        with writing.Staged() as staged:
            table, plot = map(staged, self._areas(job))
            segment_video.write_areas(table, plot, entries, names, job.file_name)
            if self._overlays:
                segment_video.write_overlays(path, staged(self._film(job)), labels, entries)
        return segment_video.film_summary(path, labels, entries, names)

    def _areas(self, job: Job) -> tuple[Any, Any]:
        """The table and the plot of a film's areas."""
        return self._path / "areas" / f"{job.name}.csv", self._path / "areas" / f"{job.name}.png"

    def _film(self, job: Job) -> Any:
        return self._path / "overlays" / f"{job.name}{video.overlay_suffix(job.path)}"

    def note(self, job: Job, summary: dict[str, Any], file: list[Any] | None = None) -> None:
        """Adds an image's line to the log: its files are all there. `file` is the fingerprint of what was read."""
        self._log.add({"name": job.name.as_posix(), "file": file or job.fingerprint(), **summary})

    def finish(self, failed: Sequence[tuple[Job, str]]) -> list[int]:
        """Writes the summary and the annotations of everything in the folder, by the last part that finishes.

        Returns the other parts that must finish before.
        """
        try:
            self._log.send()
            self._write_summary([{"image": str(job.path), "reason": reason} for job, reason in failed], finished=True)
            missing = merge_shards(self._path, self._shard.count, self._about) if self._shard.mark else []
            if not missing:
                self._finish_annotations()
            return missing
        except OSError as error:
            raise OSError(
                f"the summary of {self._path} cannot be written ({error}); make room, and start the same command again"
            ) from error

    def _finish_annotations(self) -> None:
        """The files of the whole run, of the images that have their parts, in the order of their names."""
        kinds = [kind for kind in self._annotations if kind.finish is not None]
        if not kinds:
            return
        log = ResultLog(self._path, WHOLE, parts=self._shard.count) if self._shard.mark else self._log
        listed = [Listed.of(entry) for entry in log.entries()]
        if log is not self._log:
            log.close()
        for kind in kinds:
            there = [e for e in listed if all(file.path(self._path, e.name).exists() for file in kind.files)]
            if kind.finish is not None:
                kind.finish(self._path, there, self._settings.classes)

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
