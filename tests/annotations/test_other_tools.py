"""YOLO, Label Studio, CVAT and Cityscapes: their rules by hand, and their own readers where these are installed."""

import json
import pathlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ahs_seg_jax.annotations import cityscapes, cvat, label_studio, polygons, yolo

NAMES = ("cat", 'sofa, "couch"', "猫 & <dog>")


def labels(size=(37, 53), seed=0):
    coarse = np.random.default_rng(seed).integers(-1, 3, (5, 7)).astype(np.int32)
    rows, columns = (np.arange(extent) * cells // extent for extent, cells in zip(size, coarse.shape, strict=True))
    found = coarse[rows][:, columns]
    found[10:20, 10:30] = 1
    found[13:16, 14:20] = 2  # a hole
    return found


# ------------------------------------------------------------------------------------------------ YOLO


def test_a_hole_is_reached_by_a_cut():
    pytest.importorskip("rasterio")
    truth = np.full((13, 17), -1, np.int32)
    truth[2:11, 3:14] = 0
    truth[4:6, 5:8] = truth[7:9, 10:12] = -1
    (polygon,) = polygons.polygons(truth)
    assert (polygon.class_index, len(polygon.rings), polygon.pixels) == (0, 3, 99 - 6 - 4)
    x, y = polygons.one_ring(polygon.rings).T
    assert abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2 == 99 - 6 - 4  # the holes turn the other way


def drawn(text, size):
    """The areas of a label file, by corners at the pixels' edges."""
    picture = Image.new("I", (20 * size[1], 20 * size[0]), -1)
    for line in text.splitlines():
        index, *values = line.split()
        corners = np.array(values, float).reshape(-1, 2) * (20 * size[1], 20 * size[0])
        ImageDraw.Draw(picture).polygon(list(map(tuple, corners.tolist())), fill=int(index))
    return np.asarray(picture)[10::20, 10::20]  # the middles of the pixels


def test_yolo_lines_draw_the_labels(tmp_path):
    pytest.importorskip("rasterio")
    truth = labels()
    yolo.write_labels(tmp_path / "a.txt", truth)
    text = (tmp_path / "a.txt").read_text()
    assert (drawn(text, truth.shape) == truth).mean() > 0.995  # a cut has the width of a line


def test_ultralytics_reads_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    pytest.importorskip("ultralytics")
    from ultralytics.data.utils import check_det_dataset, img2label_paths, verify_image_label

    truth = labels((64, 96))
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "yolo" / "labels" / "deep").mkdir(parents=True)
    yolo.write_labels(tmp_path / "yolo" / "labels" / "deep" / "a.txt", truth)
    yolo.link_image(tmp_path / "yolo", "deep/a.png", tmp_path / "a.png")
    yolo.write_data(tmp_path / "yolo", NAMES)
    found = check_det_dataset(str(tmp_path / "yolo" / "data.yaml"))
    assert found["names"] == dict(enumerate(NAMES))
    image = str(pathlib.Path(found["train"]) / "deep" / "a.png")
    (text,) = img2label_paths([image])
    _, boxes, shape, segments, _, missing, present, empty, corrupt, message = verify_image_label(
        (image, text, "", False, 3, 0, 0, False)
    )
    assert (shape, missing, present, empty, corrupt, message) == ((64, 96), 0, 1, 0, 0, "")
    assert len(segments) == len(boxes) == len(list(polygons.polygons(truth)))


def test_data_yaml_and_links(tmp_path):
    yaml = pytest.importorskip("yaml")
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "yolo").mkdir()
    yolo.write_data(tmp_path / "yolo", NAMES)
    found = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text("utf-8"))
    assert found == {"train": "images", "val": "images", "names": dict(enumerate(NAMES))}
    for _ in range(2):  # a run that goes on links again
        yolo.link_image(tmp_path / "yolo", "deep/a.png", tmp_path / "a.png")
    assert (tmp_path / "yolo" / "images" / "deep" / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()


# ------------------------------------------------------------------------------------------------ Label Studio


def unpacked(code):
    """The values of a packed run-length code, by its definition."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(width):
        nonlocal at
        at += width
        return int(bits[at - width : at], 2)

    count, width = read(32), read(5) + 1
    sizes, values = [read(4) + 1 for _ in range(4)], []
    while len(values) < count:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(width)] * length if repeated else [read(width) for _ in range(length)]
    return np.array(values)


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (1, 2), (131, 503)])
def test_brush_codes_are_unpacked(size):
    mask = np.random.default_rng(0).random(size) < 0.5
    if size[0] == 131:  # runs of more than 65,536 values
        mask[:] = True
        mask[70, 300:310] = False
    values = unpacked(label_studio.encode(mask)).reshape(*size, 4)
    np.testing.assert_array_equal(values, np.repeat(255 * mask[..., None], 4, axis=2))


def test_label_studio_s_converter_reads_the_task(tmp_path):
    brush = pytest.importorskip("label_studio_converter.brush")
    truth = labels()
    task = json.loads(json.dumps(label_studio.task("a.jpg", truth, NAMES, np.full(truth.shape, 0.25, np.float32))))
    results = [{**result, **result["value"]} for result in task["predictions"][0]["result"]]
    found = brush.decode_from_annotation("label", results)
    for index, name in enumerate(NAMES):
        np.testing.assert_array_equal(found[f"label-{name}-0"] == 255, truth == index)
    assert task["predictions"][0]["score"] == 0.25


def test_label_studio_s_interface_has_the_names(tmp_path):
    label_studio.write_interface(tmp_path / "a.xml", NAMES)
    view = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [label.get("value") for label in view.findall("BrushLabels/Label")] == list(NAMES)
    assert view.find("BrushLabels").get("toName") == view.find("Image").get("name")


# ------------------------------------------------------------------------------------------------ CVAT


def test_cvat_s_masks_are_read_back(tmp_path):
    truths = [labels(), np.full((5, 7), -1, np.int32)]
    images = [(f"deep/{number}.jpg", truth.shape, cvat.masks(truth)) for number, truth in enumerate(truths)]
    cvat.write(tmp_path / "cvat.xml", NAMES, json.loads(json.dumps(images)))
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    assert [label.text for label in root.findall("meta/task/labels/label/name")] == list(NAMES)
    for image, truth in zip(root.findall("image"), truths, strict=True):
        drawn = np.full(truth.shape, -1)
        assert (int(image.get("height")), int(image.get("width"))) == truth.shape
        for mask in image.findall("mask"):
            left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
            counts = list(map(int, mask.get("rle").split(",")))
            inside = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width) == 1
            assert inside.any(0)[[0, -1]].all()
            assert inside.any(1)[[0, -1]].all()
            drawn[top : top + height, left : left + width][inside] = NAMES.index(mask.get("label"))
        np.testing.assert_array_equal(drawn, truth)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_datumaro_reads_cvat_s_file(tmp_path):
    datumaro = pytest.importorskip("datumaro.plugins.data_formats.cvat.base")
    truth = labels()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (53, 37)).save(tmp_path / "images" / "a.png")
    cvat.write(tmp_path / "cvat.xml", NAMES, [("a.png", truth.shape, cvat.masks(truth))])
    (item,) = datumaro.CvatBase(str(tmp_path / "cvat.xml"))
    drawn = np.full(truth.shape, -1)
    for annotation in item.annotations:
        drawn[annotation.image == 1] = annotation.label
    np.testing.assert_array_equal(drawn, truth)


# ------------------------------------------------------------------------------------------------ Cityscapes


def test_cityscapes_numbers(tmp_path):
    names = ("sky", "tree, vegetation", "Car")
    truth = labels()
    cityscapes.write(tmp_path / "a.png", truth, names)
    found = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, np.array([23, 21, 26, 0])[truth])
    with pytest.raises(ValueError, match="Cityscapes has no label 'cat', 'sofa', so there is no number for it"):
        cityscapes.ids(("sky", "cat", "sofa"))


def test_cityscapes_numbers_are_the_official_ones(tmp_path):
    official = pytest.importorskip("cityscapesscripts.helpers.labels")
    assert {label.name: label.id for label in official.labels if label.id >= 0} == cityscapes.IDS


def test_cityscapes_evaluation_reads_the_files(tmp_path):
    script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    truth, names = labels(), ("road", "car", "sky")
    predicted, expected = (tmp_path / f"ulm_000000_000019_{end}.png" for end in ("leftImg8bit_labelIds", "gtFine"))
    for path in (predicted, expected):
        cityscapes.write(path, truth, names)
    matrix = script.generateMatrix(script.args)
    script.args.evalPixelAccuracy = script.args.evalInstLevelScore = False
    pixels = script.evaluatePair(str(predicted), str(expected), matrix, {}, {}, script.args)
    assert pixels == truth.size
    assert [matrix[number, number] for number in (0, 7, 26, 23)] == [(truth == index).sum() for index in (-1, 0, 1, 2)]
