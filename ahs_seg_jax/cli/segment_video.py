"""Films of `ahs-seg segment`: index PNGs of frames, a film of overlays with its sound, and areas over time.

First the frames, one after the other: `labels/NAME/000000.png` and a line in `labels/NAME/frames.jsonl`, so that a run
that was stopped goes on after the last line. Then, from these, `overlays/NAME.mp4`, `areas/NAME.csv` and `.png`.
"""

import contextlib
import csv
import dataclasses
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.pictures import charts, overlays
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.pictures.label_files import read_png
from ahs_seg_jax.segmenter import Segmentation, Segmenter, video
from ahs_seg_jax.segmenter.segmentation import UNKNOWN, count_labels, named_areas, summary
from ahs_seg_jax.segmenter.words import Words
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary

logger = logging.getLogger("ahs_seg_jax")
FRAMES, SMOOTHED = "frames.jsonl", "smoothed.npz"
SAVE_EVERY = 20  # frames between two notes of the smoothed probabilities, which are large


@dataclasses.dataclass
class Smoothing:
    """A running mean of probabilities: `weight` (0..1) of what was, and the rest of the new frame."""

    weight: float
    words: Words
    mean: np.ndarray | None = None  # float32 [t, H, W]

    def __call__(self, found: Segmentation) -> Segmentation:
        """The frame's result by the mean. Needs its probabilities; a frame of another size begins anew."""
        if not self.weight or found.probabilities is None:
            return found
        if self.mean is None or self.mean.shape != found.probabilities.shape:
            self.mean = found.probabilities
        else:
            self.mean = self.weight * self.mean + (1 - self.weight) * found.probabilities
        confidence = self.mean.max(axis=0)
        labels = self.words.known(self.mean.argmax(axis=0).astype(np.int32), confidence)
        return dataclasses.replace(found, labels=labels, confidence=confidence, probabilities=None)


@dataclasses.dataclass(frozen=True)
class FrameEntry:
    """A line of FRAMES."""

    frame: int
    seconds: float
    confidence: float  # its mean
    counts: list[int]  # pixels without a name, then of each name

    def labels(self, folder: pathlib.Path) -> pathlib.Path:
        """Where the frame's index PNG lies."""
        return folder / f"{self.frame:06d}.png"


def segment_film(
    segmenter: Segmenter,
    path: pathlib.Path,
    folder: pathlib.Path,
    vocabulary: Vocabulary,
    settings: Settings,
    fingerprint: list[Any],
) -> list[FrameEntry]:
    """Writes the index PNGs of a film's frames into the folder; returns what is known of each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    smoothing = Smoothing(settings.smooth, segmenter.words(vocabulary, settings.unknown))
    entries = _done_before(folder, fingerprint, smoothing)
    for path_before in () if entries else folder.glob("*.png"):  # of another film of this name
        path_before.unlink()
    lines = [json.dumps({"file": fingerprint}), *(json.dumps(dataclasses.asdict(entry)) for entry in entries)]
    writing.write_text(folder / FRAMES, "\n".join(lines) + "\n")
    with (folder / FRAMES).open("a", encoding="utf-8") as file:
        for frame in video.frames(path, settings.every, len(entries)):
            found = segmenter(
                frame.image,
                vocabulary,
                protocol=settings.protocol,
                windows=settings.windows,
                unknown=settings.unknown,
                probabilities=settings.smooth > 0,
            )
            found = smoothing(found)
            counts = count_labels(found.labels, len(found.names)).tolist()
            entry = FrameEntry(frame.number, round(frame.seconds, 6), float(found.confidence.mean()), counts)
            with writing.Staged() as staged:
                found.save_png(staged(entry.labels(folder)), settings.first_index)
            entries.append(entry)
            file.write(json.dumps(dataclasses.asdict(entry)) + "\n")
            file.flush()
            if smoothing.mean is not None and len(entries) % SAVE_EVERY == 0:
                with writing.whole(folder / SMOOTHED) as unfinished, unfinished.open("wb") as stored:
                    np.savez(stored, frames=len(entries), mean=smoothing.mean)
                logger.info("%s: %d frames, at %.1f s", path, len(entries), frame.seconds)
    (folder / SMOOTHED).unlink(missing_ok=True)
    if not entries:
        raise ValueError(f"{path} holds no frames; copy or download it again")
    return entries


def _done_before(folder: pathlib.Path, fingerprint: list[Any], smoothing: Smoothing) -> list[FrameEntry]:
    """The frames that a stopped run has done of this very file, in order and without a gap."""
    found: list[FrameEntry] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        first, *lines = (folder / FRAMES).read_text("utf-8").splitlines()
        if json.loads(first)["file"] == fingerprint:
            for line in lines:
                entry = FrameEntry(**json.loads(line))  # the last line may be cut off: what is before it counts
                if not entry.labels(folder).is_file():
                    break
                found.append(entry)
    if not smoothing.weight:
        return found
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(folder / SMOOTHED) as stored:
        if int(stored["frames"]) <= len(found):
            smoothing.mean = stored["mean"]
            return found[: int(stored["frames"])]
    return []


def write_overlays(
    source: pathlib.Path, destination: pathlib.Path, folder: pathlib.Path, entries: Sequence[FrameEntry]
) -> None:
    """The film with its labels in colour; a frame between two that were segmented has the labels of the first."""
    paths = {entry.frame: entry.labels(folder) for entry in entries}
    shown: list[Any] = []  # labels and colours of the last frame that was segmented

    def draw(number: int, image: np.ndarray) -> np.ndarray:
        if number in paths:
            labels, names = read_png(paths[number])
            shown[:] = labels, assign_colors(names)
        labels, colors = shown
        if labels.shape != image.shape[:2]:  # a film may change its size between the two
            return image
        return overlays.overlay(image, labels, colors)

    video.write_overlays(source, destination, draw)


def write_areas(
    table: pathlib.Path, plot: pathlib.Path, entries: Sequence[FrameEntry], names: Sequence[str], title: str
) -> None:
    """The share of each name in each frame, as a table of comma-separated values and as a plot over time."""
    counts = np.array([entry.counts for entry in entries], np.float64)
    shares = counts / counts.sum(axis=1, keepdims=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["frame", "seconds", UNKNOWN, *names])
        for entry, row in zip(entries, shares, strict=True):
            rows.writerow([entry.frame, f"{entry.seconds:.3f}", *(f"{share:.6f}" for share in row)])
    seconds = np.array([entry.seconds for entry in entries])
    picture = charts.over_time(names, seconds, shares[:, 1:], assign_colors(tuple(names)), title)
    Image.fromarray(picture).save(plot)


def film_summary(
    path: pathlib.Path, folder: pathlib.Path, entries: Sequence[FrameEntry], names: Sequence[str]
) -> dict[str, Any]:
    """As of an image, of the mean of all frames, and how many frames these are."""
    with Image.open(entries[0].labels(folder)) as first:
        size = first.size[::-1]
    counts = np.mean([entry.counts for entry in entries], axis=0)
    whole = np.round(counts * (size[0] * size[1] / counts.sum())).astype(np.int64)
    confidence = float(np.mean([entry.confidence for entry in entries]))
    return summary(str(path), size, confidence, named_areas(whole, names)) | {"frames": len(entries)}


def check(videos: Sequence[pathlib.Path], settings: Settings, given: Sequence[str]) -> None:
    """Raises, before the first image, what films cannot have: `given` are options that they do not take."""
    if not videos:
        return
    video.pyav()
    if given:
        raise ValueError(f"{given[0]} is for images only; leave it out, or leave out {videos[0]} and other films")
    if settings.smooth and isinstance(settings.unknown, tuple):
        raise ValueError(
            "--smooth takes the mean of the names' probabilities, which --unknown with words does not have; give "
            "--unknown a probability"
        )


def check_settings(every: int, smooth: float) -> None:
    """Raises ValueError for numbers that are none of a film's."""
    if every < 1:
        raise ValueError(f"--every is {every}; give 1 for every frame, 5 for every fifth")
    if not 0 <= smooth < 1:
        raise ValueError(f"--smooth is {smooth}; it is the share of what was, at least 0 and below 1")


assert IGNORE == -1  # `counts` begin with the pixels without a name
