"""Miniature downloads of every benchmark, in the formats of the real ones."""

import json
import pathlib
import pickle

import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark
from ahs_seg_jax.data.prepared import preparation

H, W = 5, 7


def photograph(path: pathlib.Path, size=(H, W), mode="RGB", orientation=0, seed=0, **settings) -> pathlib.Path:
    """A JPEG of noise; `size` (h, w) as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    if orientation:
        settings["exif"] = Image.Exif()
        settings["exif"][0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(path, **settings)
    return path


def png(path: pathlib.Path, label, palette=False) -> pathlib.Path:
    """An index mask of 8 or 16 bits, if asked with a palette that has other colours than indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(label))
    if palette:
        image.putpalette([(37 * k + 11) % 256 for k in range(768)])
    image.save(path)
    return path


def coco_stuff(root: pathlib.Path, split: str, labels: dict) -> None:
    for stem, label in labels.items():
        photograph(root / f"coco-stuff/images/{split}2017/{stem}.jpg", np.shape(label))
        png(root / f"coco-stuff/annotations/{split}2017/{stem}.png", label)


def ade20k_150(root: pathlib.Path, labels: dict) -> None:
    for stem, label in labels.items():
        photograph(root / f"ADEChallengeData2016/images/validation/{stem}.jpg", np.shape(label))
        png(root / f"ADEChallengeData2016/annotations/validation/{stem}.png", label)


def ade20k_847(root: pathlib.Path, ids: dict, indexed=()) -> None:
    """Object ids by path below validation/; `indexed` names further images that only the index knows."""
    base = root / "ADE20K_2021_17_01"
    for stem, label in ids.items():
        photograph(base / f"images/ADE/validation/{stem}.jpg", np.shape(label))
        label = np.asarray(label)
        seg = np.stack([label // 256 * 10 + 3, label % 256, np.full(label.shape, 9)], axis=-1).astype(np.uint8)
        Image.fromarray(seg).save(base / f"images/ADE/validation/{stem}_seg.png")
        png((base / f"images/ADE/validation/{stem}_seg.png").with_name(f"{stem.split('/')[-1]}_parts_1.png"), seg)
    paths = [pathlib.PurePosixPath("ADE20K_2021_17_01/images/ADE/validation", stem) for stem in [*ids, *indexed]]
    index = {
        "filename": [f"{path.name}.jpg" for path in paths],
        "folder": [str(path.parent) for path in paths],
        "objectPresence": np.zeros((3, len(paths))),
    }
    (base / "index_ade20k.pkl").write_bytes(pickle.dumps(index))


def pascal_context_59(root: pathlib.Path, images: list[dict]) -> None:
    """`images`: name, phase, and segments (category id, mask bool [h, w], "compressed" | "plain")."""
    base = root / "VOCdevkit/VOC2010"
    content = {"images": [], "annos_segmentation": [], "categories": [{"category_id": 2, "name": "aeroplane"}]}
    for number, image in enumerate(images, start=2008000001):
        photograph(base / f"JPEGImages/{image['name']}.jpg")
        facts = {"image_id": number, "file_name": f"{image['name']}.jpg", "phase": image["phase"]}
        content["images"].append(facts | {"height": H, "width": W})
        for category, pixels, form in image["segments"]:
            segment = {"id": len(content["annos_segmentation"]), "image_id": number, "category_id": category}
            content["annos_segmentation"].append(segment | {"segmentation": _runs(pixels, form), "iscrowd": 0})
    (base / "trainval_merged.json").write_text(json.dumps(content))


def _runs(pixels, form):
    flat = np.asfortranarray(np.asarray(pixels, np.uint8))
    if form == "plain":
        column = flat.ravel(order="F").astype(int)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], column, [-1]])))
        return {"size": [H, W], "counts": np.diff(np.concatenate([[0], changes])).tolist()}
    runs = mask.encode(flat)
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def pascal_context_459(root: pathlib.Path, labels: dict) -> None:
    base = root / "VOCdevkit/VOC2010"
    (base / "trainval").mkdir(parents=True, exist_ok=True)
    (base / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for stem, label in labels.items():
        photograph(base / f"JPEGImages/{stem}.jpg", np.shape(label))
        scipy.io.savemat(base / f"trainval/{stem}.mat", {"LabelMap": np.asarray(label, np.uint16)}, do_compression=True)
    (base / "ImageSets/Main/val.txt").write_text("\n".join(labels) + "\n")


def voc(root: pathlib.Path, labels: dict, palette=True) -> None:
    base = root / "VOCdevkit/VOC2012"
    (base / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    for stem, label in labels.items():
        photograph(base / f"JPEGImages/{stem}.jpg", np.shape(label))
        png(base / f"SegmentationClassAug/{stem}.png", label, palette)
    photograph(base / "JPEGImages/2007_999999.jpg")  # of another list
    (base / "ImageSets/Segmentation/val.txt").write_text("\n".join(labels) + "\n")


def cityscapes(root: pathlib.Path, split: str, labels: dict) -> None:
    """Ids by CITY/CITY_SEQUENCE_FRAME below a root that holds leftImg8bit/ and gtFine/, with the files beside them."""
    for stem, label in labels.items():
        photograph(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", np.shape(label))
        base = root / f"gtFine/{split}"
        png(base / f"{stem}_gtFine_labelIds.png", label)
        png(base / f"{stem}_gtFine_instanceIds.png", np.asarray(label, np.uint16) * 1000)
        Image.new("RGBA", np.shape(label)[::-1]).save(base / f"{stem}_gtFine_color.png")
        (base / f"{stem}_gtFine_polygons.json").write_text("{}")


def rows(values, dtype=np.uint8):
    """A label map `[5, n]` whose columns are the values."""
    return np.repeat(np.asarray(values, dtype)[None], H, axis=0)


def prepared(known: Benchmark, root: pathlib.Path, target: pathlib.Path | None = None, log=print, **settings) -> dict:
    """Prepares what is there, unless `settings` say otherwise; returns the facts."""
    chosen = preparation.Settings(**({"partial": True} | settings))
    found = preparation.complete_listings(known, root, chosen, log)
    return preparation.prepare(known, found, target or root, chosen, log)
