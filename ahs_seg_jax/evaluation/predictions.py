"""Predicted labels on disk: index PNGs, or run-length codes in the COCO format."""

import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from ahs_seg_jax.devices import processes
from ahs_seg_jax.pictures import label_files

KINDS = ("png", "coco")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class PredictionWriter:
    """Writes the label map of each image into `folder`, and the class names beside them in `classes.txt`.

    png   `<image's path>.png`, a number a pixel: the line of `classes.txt`, counted from 0; 16 bits from 255 classes on
    coco  `predictions.json`, a list of `image_id` (index in the data), `file_name`, `category_id` (line as above) and
          `segmentation` (compressed RLE); one file an image in `images/` until `finish`

    Raises ValueError for an unknown kind, or if two images have the same path.
    """

    def __init__(self, kind: str, folder: epath.Path, class_names: Sequence[str], image_names: Sequence[str]):
        if kind not in KINDS:
            raise ValueError(f"predictions of kind {kind!r}; choose one of {', '.join(KINDS)}")
        self.kind = kind
        self._folder, self._parts = folder, folder / "images"
        stems = [_relative(name) for name in image_names]
        if len(set(stems)) < len(stems):
            twice = next(name for name, stem in zip(image_names, stems, strict=True) if stems.count(stem) > 1)
            raise ValueError(f"several images would be saved under the name of {twice}; rename them, or save none")
        self._classes = len(class_names)
        self._joined = folder / "predictions.json"
        folder.mkdir(parents=True, exist_ok=True)
        if processes.is_main_process():
            (folder / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")

    def start_again(self, indices: Iterable[int]) -> None:
        """Forgets the predictions of these images, this process's, that an unfinished evaluation wrote."""
        for index in indices:
            self._part(index).unlink(missing_ok=True)
        if processes.is_main_process():
            self._joined.unlink(missing_ok=True)

    def write(self, index: int, name: str, prediction: np.ndarray) -> None:
        """Writes one image's prediction, int `[H, W]` of class indices."""
        if self.kind == "png":
            path = self._folder / f"{_relative(name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                label_files.write_png(file, prediction, self._classes)
            return
        segments = [
            {"image_id": index, "file_name": name, "category_id": category, "segmentation": code}
            for category, _, code in label_files.coco_masks(prediction)
        ]
        self._parts.mkdir(parents=True, exist_ok=True)
        self._part(index).write_text(json.dumps(segments), encoding="utf-8")

    def _part(self, index: int) -> epath.Path:
        return self._parts / f"{index:09d}.json"

    def finish(self, indices: Iterable[int]) -> str:
        """Joins what belongs in one file, of these images of all processes; returns the folder, or that file."""
        if self.kind == "png":
            return str(self._folder)
        if processes.is_main_process() and self._parts.is_dir():
            with self._joined.open("w", encoding="utf-8") as file:
                separator = "["
                for part in map(self._part, sorted(indices)):
                    if part.is_file():  # an image that could not be read has none
                        file.write(separator + part.read_text(encoding="utf-8")[1:-1])
                        separator = ",\n"
                file.write("]\n")
            self._parts.rmtree()
        return str(self._joined)


def _relative(name: str) -> str:
    """An image's path without its ending, in which nothing leads out of a folder."""
    parts = [part for part in pathlib.PurePosixPath(name).parts if part not in ("/", "..", ".")]
    path = pathlib.PurePosixPath(*parts or ["image"])
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)
