"""The folder of results of `ahs-seg segment`: a run that was stopped, or killed, goes on in it."""

import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax.cli.image_jobs import Job, streamed
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
    """The folder of results: `labels/`, `overlays/`, `coco/`, `heat_maps/`, RESULTS (a line an image) and SUMMARY."""

    def __init__(
        self, path: pathlib.Path, settings: Settings, overlays: bool, coco: bool, heat_maps: bool, again: bool
    ):
        self._path, self._overlays, self._coco, self._heat_maps = path, overlays, coco, heat_maps
        self._windows = settings.windows
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
            for path in filter(None, self._targets(job)):
                path.unlink(missing_ok=True)
            if maps := self._maps(job):
                shutil.rmtree(maps, ignore_errors=True)

    def _targets(self, job: Job) -> tuple[pathlib.Path, pathlib.Path | None, pathlib.Path | None]:
        place = lambda folder, suffix: self._path / folder / f"{job.name}{suffix}"
        overlay = place("overlays", ".png") if self._overlays else None
        if self._windows and streamed(job):
            return place("labels", ".tif"), overlay, None  # masks of such sizes are no COCO annotations
        return place("labels", ".png"), overlay, place("coco", ".json") if self._coco else None

    def _maps(self, job: Job) -> pathlib.Path | None:
        """The folder of an image's heat maps."""
        return self._path / "heat_maps" / job.name if self._heat_maps else None

    def write(self, job: Job, result: Segmentation) -> dict[str, Any]:
        """The files of one image, all or none; its line in RESULTS comes last, and is returned."""
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
        entry = {"name": str(job.name), "file": job.fingerprint(), **summary}
        self._done[str(job.name)] = entry
        with (self._path / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return entry

    def finish(self, failed: Sequence[tuple[Job, str]]) -> None:
        """Writes the summary of everything in the folder."""
        try:
            self._write_summary([{"image": str(job.path), "reason": reason} for job, reason in failed], finished=True)
        except OSError as error:
            raise OSError(
                f"the summary of {self._path} cannot be written ({error}); make room, and start the same command again"
            ) from error

    def _write_summary(self, failed: list[dict[str, str]], finished: bool) -> None:
        summary = self._about | {"finished": finished, "images": list(self._done.values()), "failed": failed}
        writing.write_json(self._path / SUMMARY, summary, ensure_ascii=False)
