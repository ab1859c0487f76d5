"""The folder of results of `ahs-seg segment`: a run that was stopped, or killed, goes on in it."""

import json
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from ahs_seg_jax.cli import result_formats
from ahs_seg_jax.cli.image_jobs import Job, streamed
from ahs_seg_jax.cli.result_formats import ImageFile, Listed, Result
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.segmenter import Segmentation, Segmenter, large_tiff
from ahs_seg_jax.storage import writing
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary, first_synonym

SUMMARY, RESULTS = "summary.json", "results.jsonl"


def _file_name(name: str) -> str:
    """A name as a part of a file's name on every system: letters and digits of any script."""
    return re.sub(r"[^\w]+", "_", first_synonym(name)).strip("_")[:40]


class ResultFolder:
    """The folder of results: files of `result_formats`, `heat_maps/`, RESULTS (a line an image) and SUMMARY."""

    def __init__(
        self,
        path: pathlib.Path,
        settings: Settings,
        *,
        overlays: bool = True,
        annotations: Sequence[str] = (),
        heat_maps: bool = False,
        again: bool = False,
    ):
        self._path, self._settings, self._heat_maps = path, settings, heat_maps
        self._annotations = {name: result_formats.ANNOTATIONS[name] for name in annotations}
        self._overlays = overlays
        self._about = {"settings": settings.described(), "versions": versions()}
        try:
            path.mkdir(parents=True, exist_ok=True)
            before = path / SUMMARY
            if before.is_file() and not again:
                self._check(before)
            elif again:
                (path / RESULTS).unlink(missing_ok=True)
            self._done = self._read_done()
            self._write_summary([], finished=False)
        except OSError as error:
            raise OSError(f"results cannot be written to {path} ({error}); choose another --output") from error

    def _check(self, file: pathlib.Path) -> None:
        try:
            before = dict(json.loads(file.read_text("utf-8"))["settings"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged ({type(error).__name__}), so it does not tell with which settings the results "
                f"beside "
                "it were made; choose another --output, or start over with --overwrite"
            ) from error
        settings = self._about["settings"]
        differing = [name for name, value in settings.items() if before.get(name) != value]
        if differing:
            raise ValueError(
                f"{self._path} holds results with another {', '.join(differing)}; choose another --output, or start "
                "over with --overwrite"
            )

    def _read_done(self) -> dict[str, dict[str, Any]]:
        file = self._path / RESULTS
        lines = file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
        done = {}
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # the line that was being written when a run was killed
                continue
            # Another line that no run wrote is of no image either: what it was about is segmented again.
            if isinstance(entry, dict) and isinstance(entry.get("name"), str) and "file" in entry:
                done[entry["name"]] = entry
        return done

    def has(self, job: Job) -> bool:
        """Whether the image's results are here, of the file as it is now."""
        entry = self._done.get(str(job.name))
        wanted = [path for path in (*self._targets(job), self._maps(job)) if path]
        return entry is not None and entry["file"] == job.fingerprint() and all(path.exists() for path in wanted)

    def forget_another_file(self, job: Job) -> None:
        """Removes the results of an earlier file of this name, so that none of them stands for the one that is now."""
        entry = self._done.get(str(job.name))
        if entry is not None and job.path.is_file() and entry["file"] != job.fingerprint():
            del self._done[str(job.name)]
            for path in self._targets(job):
                path.unlink(missing_ok=True)
            if maps := self._maps(job):
                shutil.rmtree(maps, ignore_errors=True)

    def _targets(self, job: Job) -> list[pathlib.Path]:
        """The files of an image."""
        if self._by_windows(job):
            kept = [path for path, _ in self._of_geotiff(job)]
            return [self._geotiff(job), *([self._overlay(job)] if self._overlays else []), *kept]
        return [file.path(self._path, job.name) for file in self._files()]

    def _files(self) -> list[ImageFile]:
        overlays = (result_formats.OVERLAYS,) if self._overlays else ()
        formats = (result_formats.LABELS, *overlays, *self._annotations.values())
        return [file for kind in formats for file in kind.files]

    def _by_windows(self, job: Job) -> bool:
        """Whether neither the image nor its labels are ever whole in memory."""
        return self._settings.windows is not None and streamed(job)

    def _geotiff(self, job: Job) -> pathlib.Path:
        return self._path / "labels" / f"{job.name}.tif"

    def _overlay(self, job: Job) -> pathlib.Path:
        return self._path / "overlays" / f"{job.name}.png"

    def _of_geotiff(self, job: Job) -> list[tuple[pathlib.Path, Callable[[pathlib.Path, pathlib.Path], None]]]:
        """The annotations that such labels have; masks of their sizes are no COCO annotations."""
        kinds = self._annotations.values()
        return [(kind.files[0].path(self._path, job.name), kind.of_geotiff) for kind in kinds if kind.of_geotiff]

    def _maps(self, job: Job) -> pathlib.Path | None:
        """The folder of an image's heat maps."""
        return self._path / "heat_maps" / job.name if self._heat_maps else None

    def write(self, job: Job, segmentation: Segmentation) -> dict[str, Any]:
        """The files of one image, all or none; its line in RESULTS comes last, and is returned."""
        result = Result(str(job.name), job.file_name, segmentation, self._settings.first_index)
        with writing.Staged() as staged:
            for file in self._files():
                file.write(result, staged(file.path(self._path, job.name)))
            if maps := self._maps(job):
                for index, name in enumerate(segmentation.names):
                    segmentation.heat_map(name).save(staged(maps / f"{index:03d}_{_file_name(name)}.png"))
        return self._note(job, segmentation.summary())

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
                picture.save(staged(self._overlay(job)))
            for path, write in self._of_geotiff(job):
                write(labels, staged(path))
        return self._note(job, summary)

    def _note(self, job: Job, summary: dict[str, Any]) -> dict[str, Any]:
        entry = {"name": str(job.name), "file": job.fingerprint(), **summary}
        self._done[str(job.name)] = entry
        with (self._path / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return entry

    def finish(self, failed: Sequence[tuple[Job, str]]) -> None:
        """Writes the files of the whole run, and the summary of everything in the folder."""
        try:
            for kind in self._annotations.values():
                self._finish(kind)
            self._write_summary([{"image": str(job.path), "reason": reason} for job, reason in failed], finished=True)
        except OSError as error:
            raise OSError(
                f"the summary of {self._path} cannot be written ({error}); make room, and start the same command again"
            ) from error

    def _finish(self, kind: result_formats.Format) -> None:
        """The files of the whole run, of the images that have their parts, in the order of their names."""
        if kind.finish is None:
            return
        entries = [self._done[name] for name in sorted(self._done)]
        there = [e for e in entries if all(file.path(self._path, e["name"]).is_file() for file in kind.files)]
        kind.finish(self._path, [Listed.of(entry) for entry in there], self._settings.classes)

    def _write_summary(self, failed: list[dict[str, str]], finished: bool) -> None:
        summary = self._about | {"finished": finished, "images": list(self._done.values()), "failed": failed}
        writing.write_json(self._path / SUMMARY, summary, ensure_ascii=False)
