"""`ahs-seg segment`: files in, index PNGs, overlays and a summary out; one failing image does not stop the others."""

import dataclasses
import glob
import json
import logging
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import options
from ahs_seg_jax.data.images import IMAGE_SUFFIXES
from ahs_seg_jax.data.open_image import image_size
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import Segmentation, Segmenter, geotiff, large_tiff
from ahs_seg_jax.storage import paths, writing
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary, first_synonym

SUMMARY, RESULTS = "summary.json", "results.jsonl"
SHOWN_CLASSES = 4  # in a line of progress


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the results depend on, besides the images."""

    classes: tuple[str, ...]
    model: str
    protocol: str | None
    unknown: str | float | tuple[str, ...]
    keep: int | Literal["model"] | None
    memory_gb: float | None
    windows: NativeWindows | None = None

    def described(self) -> dict[str, Any]:
        """JSON values. The memory bound is left out: results do not depend on it."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        del values["memory_gb"]
        return values


@dataclasses.dataclass(frozen=True)
class Job:
    """An image and the name of its results, without suffix, relative to the folders of results."""

    path: pathlib.Path
    name: pathlib.PurePath

    def fingerprint(self) -> list[int]:
        """Size and time of change of the file: another file of the same name is segmented again."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]


def parse_unknown(text: str) -> str | float | tuple[str, ...]:
    """`none`, a probability, or words separated by ';'."""
    if text.strip() == "none":
        return "none"
    try:
        return float(text)
    except ValueError:
        return tuple(word.strip() for word in text.split(";") if word.strip())


def parse_keep(text: str) -> int | Literal["model"] | None:
    """`model`, `all`, or a number. Raises ValueError for anything else."""
    if text in ("model", "all"):
        return "model" if text == "model" else None
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"--keep is {text!r}; give model, all, or a number of classes")


def parse_windows(text: str, **options: Any) -> NativeWindows | None:
    """`native` with its options, or an empty text without any. Raises ValueError for anything else."""
    # Not `in (None, False)`: 0 is equal to False, and an overlap of 0 is one.
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if text == "native":
        return NativeWindows(**given)
    if text:
        raise ValueError(f"--windows is {text!r}; give native, or leave it out for the windows of --protocol")
    misplaced = [f"--{name.replace('_', '-')}" for name in given if (name, given[name]) != ("blend", "smooth")]
    if misplaced:
        raise ValueError(f"{', '.join(misplaced)} needs --windows native")
    return None


def find_images(given: Sequence[str]) -> list[Job]:
    """Files, the images in folders (at any depth), and what patterns match, in this order, each once.

    What does not exist stays in the list, to be reported as failed. Raises ValueError if there is nothing at all.
    """
    jobs: dict[pathlib.Path, Job] = {}
    for text in given:
        path = paths.at_home(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            found = [Job(p, p.relative_to(path).with_suffix("")) for p in inside]
        elif path.exists() or not glob.has_magic(text):
            found = [Job(path, pathlib.PurePath(path.stem))]
        else:
            matches = sorted(pathlib.Path(p) for p in glob.glob(str(path), recursive=True))
            if not matches:
                raise ValueError(f"nothing matches {text}")
            found = [Job(p, pathlib.PurePath(p.stem)) for p in matches if p.is_file()]
        for job in found:
            jobs.setdefault(job.path.resolve(), job)
    return list(jobs.values())


def run(
    images: Sequence[str],
    output: pathlib.Path,
    settings: Settings,
    *,
    only_plan: bool = False,
    overlays: bool = True,
    coco: bool = False,
    heat_maps: bool = False,
    again: bool = False,
) -> int:
    """Segments; returns 0, or 1 if an image failed. Raises what a user can mend before the first image."""
    _show_log()
    jobs = find_images(images)
    segmenter = Segmenter.from_pretrained(settings.model, keep=settings.keep, memory_gb=settings.memory_gb)
    vocabulary = Vocabulary(settings.classes, segmenter.templates)
    vocabulary.tokens(segmenter.config.text.context)  # too long names are found now
    if settings.model == packaged.TINY and (strange := packaged.strange_words(settings.classes)):
        print(
            f"the small model knows drawn scenes only; what it says about {', '.join(map(repr, strange[:3]))}"
            f"{' and others' if len(strange) > 3 else ''} means nothing: give --model for other images",
            file=sys.stderr,
        )
    if settings.windows and any(map(_streamed, jobs)):
        geotiff.rasterio()  # a missing library is found now
        if heat_maps:
            raise ValueError("a TIFF in native windows has no --heat-maps: they would need it whole in memory")
    if only_plan:
        return _print_plans(jobs, segmenter, settings, heat_maps)
    folder = _Folder(output, settings, overlays, coco, heat_maps, again)
    failed: list[tuple[Job, str]] = []
    taken: dict[pathlib.PurePath, pathlib.Path] = {}
    for number, job in enumerate(jobs, 1):
        head = f"[{number}/{len(jobs)}] {job.path}"
        try:
            if taken.setdefault(job.name, job.path) != job.path:
                raise ValueError(
                    f"its results would have the same name as those of {taken[job.name]}; use another --output for it"
                )
            if folder.has(job):
                print(f"{head}: done before", file=sys.stderr)
                continue
            folder.forget_another_file(job)
            started = time.monotonic()
            entry = _segmented(job, folder, segmenter, vocabulary, settings, heat_maps)
            print(f"{head}: {_described(entry)}  {time.monotonic() - started:.1f} s", file=sys.stderr)
        except Exception as error:  # whatever happens to one image, the others are segmented; Ctrl-C still stops
            failed.append((job, options.cause(error)))
            print(f"{head}: FAILED", file=sys.stderr)
    folder.finish(failed)
    print(f"{len(jobs) - len(failed)} of {len(jobs)} images in {output}", file=sys.stderr)
    for job, reason in failed:
        where = "" if str(job.path) in reason else f"{job.path}: "
        print(f"failed: {where}{reason}", file=sys.stderr)
    return 1 if failed else 0


def _segmented(
    job: Job, folder: "_Folder", segmenter: Segmenter, vocabulary: Vocabulary, settings: Settings, heat_maps: bool
) -> dict[str, Any]:
    """Segments one image and writes its results; returns its entry in RESULTS."""
    if settings.windows and _streamed(job):
        return folder.stream(job, segmenter, vocabulary, settings)
    result = segmenter(
        job.path,
        vocabulary,
        protocol=settings.protocol,
        windows=settings.windows,
        unknown=settings.unknown,
        probabilities=heat_maps,
    )
    return folder.write(job, result)


def _show_log() -> None:
    """What the library logs (what compiles, and why) goes to stderr, without the decoration of other programs."""
    logger = logging.getLogger("ahs_seg_jax")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _print_plans(jobs: Sequence[Job], segmenter: Segmenter, settings: Settings, heat_maps: bool) -> int:
    """The plan of the largest readable image."""
    sizes = []
    for job in jobs:
        try:
            sizes.append(geotiff.tiff_size(job.path) if settings.windows and _streamed(job) else image_size(job.path))
        except Exception as error:
            print(f"{job.path}: {options.cause(error)}", file=sys.stderr)
    if not sizes:
        return 1
    words = settings.unknown if isinstance(settings.unknown, tuple) else ()
    largest = max(sizes, key=lambda size: size[0] * size[1])
    print(f"{len(sizes)} image(s); the largest:")
    count, streamed = len(settings.classes) + len(words), all(map(_streamed, jobs))
    print(segmenter.plan(largest, count, settings.protocol, heat_maps, windows=settings.windows, streamed=streamed))
    return 0 if len(sizes) == len(jobs) else 1


def _file_name(name: str) -> str:
    """A name as a part of a file's name on every system: letters and digits of any script."""
    return re.sub(r"[^\w]+", "_", first_synonym(name)).strip("_")[:40]


def _streamed(job: Job) -> bool:
    """With native windows: read from the file window by window, and written as GeoTIFF."""
    return geotiff.is_tiff(job.path)


def _described(entry: dict[str, Any]) -> str:
    shares = [f"{name} {100 * found['share']:.0f} %" for name, found in entry["classes"].items()]
    more = f", and {len(shares) - SHOWN_CLASSES} more" if len(shares) > SHOWN_CLASSES else ""
    return f"{entry['width']} x {entry['height']}, {', '.join(shares[:SHOWN_CLASSES])}{more}"


class _Folder:
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
        if self._windows and _streamed(job):
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
