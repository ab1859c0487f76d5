"""What `ahs-seg segment` writes, as values in one table: where, under which suffix, by what function.

A format has files of each image, and perhaps files of the whole run, which are made of the images' at its end.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from ahs_seg_jax.annotations import cityscapes, coco, cvat, label_studio, polygons, vector, yolo
from ahs_seg_jax.pictures import png
from ahs_seg_jax.segmenter import Segmentation, geotiff, tiff_reading
from ahs_seg_jax.storage import paths, writing

PARTS = "parts"  # what the files of the whole run are made of: a JSON an image


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """An image's labels, and what files call the image: its name and its path below the folder that was given."""

    name: str
    file_name: str
    segmentation: Segmentation
    first_index: int = 0


@dataclasses.dataclass(frozen=True)
class Listed:
    """An image whose results are complete, as files of the whole run list it."""

    name: str
    file_name: str
    size: tuple[int, int]
    source: Any  # as `paths.location` has it

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Listed":
        """From an image's line of results."""
        source = paths.location(entry["image"])
        file_name = pathlib.PurePath(entry["name"] + source.suffix).as_posix()
        return cls(entry["name"], file_name, (entry["height"], entry["width"]), source)


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One file of each image: `folder/NAMEsuffix`."""

    folder: str
    suffix: str
    write: Callable[[Result, pathlib.Path], Any]

    def path(self, output: Any, name: Any) -> Any:
        """Where it lies."""
        return output / self.folder / f"{name}{self.suffix}"


@dataclasses.dataclass(frozen=True)
class Format:
    """`finish` writes the files of the whole run; `check` raises what can be known before the first image.

    `of_geotiff` makes the first file from labels that were never whole in memory; without it, such are left out.
    """

    files: tuple[ImageFile, ...]
    finish: Callable[[Any, Sequence[Listed], Sequence[str]], None] | None = None
    check: Callable[[Sequence[str]], Any] | None = None
    of_geotiff: Callable[[pathlib.Path, pathlib.Path], None] | None = None


def _part(kind: str, content: Callable[[Result], Any]) -> ImageFile:
    def write(result: Result, path: pathlib.Path) -> None:
        with _open_text(path) as file:
            json.dump(content(result), file, ensure_ascii=False)

    return ImageFile(f"{PARTS}/{kind}", ".json", write)


def _open_text(path: pathlib.Path) -> TextIO:
    """A file to write JSON to. A name of a file that is no UTF-8 becomes an escape, which JSON reads back as that."""
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def _parts(output: Any, kind: str, images: Sequence[Listed]) -> Iterator[Any]:
    """What the images' parts hold, one at a time."""
    for image in images:
        yield json.loads((output / PARTS / kind / f"{image.name}.json").read_text("utf-8"))


# ------------------------------------------------------------------------------------------------ of a whole run


def _coco_images(images: Sequence[Listed]) -> list[dict[str, Any]]:
    return [coco.image(number, image.file_name, image.size) for number, image in enumerate(images, 1)]


def _coco(kind: str) -> Callable[[Any, Sequence[Listed], Sequence[str]], None]:
    def finish(output: Any, images: Sequence[Listed], names: Sequence[str]) -> None:
        found = coco.numbered(_parts(output, kind, images))
        with writing.whole(output / f"{kind}.json") as file:
            coco.write(file, _coco_images(images), found, coco.categories(names))

    return finish


def _panoptic(output: Any, images: Sequence[Listed], names: Sequence[str]) -> None:
    parts = zip(images, _parts(output, "panoptic", images), strict=True)
    found = (
        [{"image_id": number, "file_name": f"{pathlib.PurePath(image.name).as_posix()}.png", "segments_info": segments}]
        for number, (image, segments) in enumerate(parts, 1)
    )
    with writing.whole(output / "panoptic.json") as file:
        coco.write(file, _coco_images(images), found, coco.panoptic_categories(names))


def _yolo(output: Any, images: Sequence[Listed], names: Sequence[str]) -> None:
    for image in images:
        yolo.link_image(output / "yolo", image.file_name, image.source)
    yolo.write_data(output / "yolo", names)


def _label_studio(output: Any, images: Sequence[Listed], names: Sequence[str]) -> None:
    with writing.whole(output / "label_studio.json") as path, _open_text(path) as file:
        for number, task in enumerate(_parts(output, "label_studio", images)):
            file.write((",\n" if number else "[\n") + json.dumps(task, ensure_ascii=False))
        file.write("\n]\n" if images else "[]\n")
    with writing.whole(output / "label_studio.xml") as file:
        label_studio.write_interface(file, names)


def _cvat(output: Any, images: Sequence[Listed], names: Sequence[str]) -> None:
    parts = zip(images, _parts(output, "cvat", images), strict=True)
    with writing.whole(output / "cvat.xml") as file:
        cvat.write(file, names, ((image.file_name, image.size, masks) for image, masks in parts))


# ------------------------------------------------------------------------------------------------ of one image


def _vector(write: Callable[..., None]) -> Callable[[Result, pathlib.Path], None]:
    """In the coordinates of a TIFF that has them, else in pixels."""

    def of_result(result: Result, path: pathlib.Path) -> None:
        found = result.segmentation
        write(path, polygons.polygons(found.labels), found.names, tiff_reading.place_of(found.source))

    return of_result


def _vector_of_geotiff(write: Callable[..., None]) -> Callable[[pathlib.Path, pathlib.Path], None]:
    def of_geotiff(labels: pathlib.Path, path: pathlib.Path) -> None:
        with geotiff.open_labels(labels) as (raster, names, none, first_index):
            band = tiff_reading.rasterio().band(raster.dataset, 1)
            place = vector.Place.of(raster.place())
            write(path, polygons.band_polygons(band, none, first_index), names, place)

    return of_geotiff


def _coco_part(kind: str, objects: bool) -> ImageFile:
    return _part(kind, lambda result: result.segmentation.to_coco(objects=objects))


def _task(result: Result) -> dict[str, Any]:
    found = result.segmentation
    image = f"/data/local-files/?d={result.file_name}"  # below the folder that Label Studio serves
    return label_studio.task(image, found.labels, found.names, found.confidence)


LABELS = Format((ImageFile("labels", ".png", lambda r, path: r.segmentation.save_png(path, r.first_index)),))


def _write_overlay(result: Result, path: pathlib.Path) -> None:
    path.write_bytes(png.encode(np.asarray(result.segmentation.overlay())))


OVERLAYS = Format((ImageFile("overlays", ".png", _write_overlay),))
ANNOTATIONS: dict[str, Format] = {
    "coco": Format((_coco_part("coco", False),), _coco("coco")),
    "coco-objects": Format((_coco_part("coco_objects", True),), _coco("coco_objects")),
    "panoptic": Format(
        (
            ImageFile("panoptic", ".png", lambda r, path: coco.write_segments(path, r.segmentation.labels)),
            _part("panoptic", lambda result: coco.segments_info(result.segmentation.labels)),
        ),
        _panoptic,
    ),
    "yolo": Format(
        (ImageFile("yolo/labels", ".txt", lambda r, path: yolo.write_labels(path, r.segmentation.labels)),),
        _yolo,
        check=lambda _: polygons.features(),
    ),
    "geojson": Format(
        (ImageFile("geojson", ".geojson", _vector(vector.write_geojson)),),
        check=lambda _: polygons.features(),
        of_geotiff=_vector_of_geotiff(vector.write_geojson),
    ),
    "gpkg": Format(
        (ImageFile("gpkg", ".gpkg", _vector(vector.write_geopackage)),),
        check=lambda _: (polygons.features(), vector.require_pyogrio()),
        of_geotiff=_vector_of_geotiff(vector.write_geopackage),
    ),
    "label-studio": Format((_part("label_studio", _task),), _label_studio),
    "cvat": Format((_part("cvat", lambda result: cvat.masks(result.segmentation.labels)),), _cvat),
    "cityscapes": Format(
        (
            ImageFile(
                "cityscapes",
                "_labelIds.png",
                lambda r, path: cityscapes.write(path, r.segmentation.labels, r.segmentation.names),
            ),
        ),
        check=cityscapes.ids,
    ),
}


def parse_annotations(text: str) -> tuple[str, ...]:
    """`"coco, yolo"` -> `("coco", "yolo")`, each once. Raises ValueError for a format that there is not."""
    wanted = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if unknown := [word for word in wanted if word not in ANNOTATIONS]:
        raise ValueError(
            f"--annotations names {', '.join(map(repr, unknown))}; give one or more of {', '.join(ANNOTATIONS)}, "
            "separated by commas"
        )
    return wanted


def check(wanted: Sequence[str], names: Sequence[str], output: Any) -> None:
    """Raises, before the first image, what these annotations cannot have."""
    for test in filter(None, (ANNOTATIONS[name].check for name in wanted)):
        test(names)
    if "yolo" in wanted:
        paths.on_disk(output, "the output of --annotations yolo, which links images,")
