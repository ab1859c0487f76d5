"""Every benchmark in its own format: which files belong together, and which class a value means."""

import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask

from ahs_seg_jax.data.benchmarks import ade20k, pascal_context
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS, benchmark
from ahs_seg_jax.errors import NotAnIndexMask
from ahs_seg_jax.pictures import label_files
from tests.support import trees
from tests.support.trees import rows


def labels_of(name, root, split="val"):
    """Class indices of each example, by name, first row only."""
    known = BENCHMARKS[name]
    found = known.find(root, split)
    assert found.problems == ()
    return {pair.name: known.classes_of(known.read_values(pair.label))[0].tolist() for pair in found.pairs}


def test_coco_stuff(tmp_path):
    trees.coco_stuff(tmp_path, "train", {"000000000009": rows([0, 10, 12, 89, 91, 181])})
    trees.coco_stuff(tmp_path, "val", {"000000000139": rows([11, 90, 182, 255, 1, 2])})
    assert labels_of("coco_stuff", tmp_path, "train") == {"000000000009": [0, 10, 11, 79, 80, 170]}
    assert labels_of("coco_stuff", tmp_path) == {"000000000139": [-1, -1, -1, -1, 1, 2]}


def test_coco_object_counts_all_that_is_no_thing_as_background(tmp_path):
    trees.coco_stuff(tmp_path, "val", {"000000000139": rows([0, 10, 12, 89, 91, 181, 255])})
    assert labels_of("coco_object", tmp_path) == {"000000000139": [1, 11, 12, 80, 0, 0, 0]}
    known = BENCHMARKS["coco_object"]
    assert [known.vocabulary.names[k] for k in (1, 12, 80)] == ["person", "stop sign", "toothbrush"]
    assert known.strange(np.array([0, 11, 12, 90, 91, 182, 255])).tolist() == [11, 90, 182]


def test_ade20k_150(tmp_path):
    trees.ade20k_150(tmp_path, {"ADE_val_00000001": rows([0, 1, 2, 150, 5])})
    assert labels_of("ade20k_150", tmp_path) == {"ADE_val_00000001": [-1, 0, 1, 149, 4]}


def test_ade20k_847_in_nested_folders(tmp_path):
    ids = {"urban/street/ADE_val_1": rows([0, 2978, 312, 3055, 6, 3156], int), "a/ADE_val_2": rows([2978] * 6, int)}
    trees.ade20k_847(tmp_path, ids)
    found = labels_of("ade20k_847", tmp_path)
    assert list(found) == ["a/ADE_val_2", "urban/street/ADE_val_1"]
    assert found["urban/street/ADE_val_1"][:4] == [-1, 0, 1, 13]
    names = BENCHMARKS["ade20k_847"].vocabulary.names
    assert names[13] == "windowpane, window"
    assert set(found["a/ADE_val_2"]) == {0}


def test_ade20k_847_index_names_what_is_missing(tmp_path):
    trees.ade20k_847(tmp_path, {"a/ADE_val_2": rows([1] * 6, int)}, indexed=["b/ADE_val_3"])
    problems = ade20k.find_847(tmp_path, "val").problems
    assert len(problems) == 1
    assert "1 images of ADE20K_2021_17_01/index_ade20k.pkl are not there" in problems[0]
    assert "b/ADE_val_3" in problems[0]


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_the_index_is_never_executed(tmp_path):
    path = tmp_path / "index_ade20k.pkl"
    for folder in (["x"], Bomb()):
        path.write_bytes(pickle.dumps({"folder": folder, "filename": ["a.jpg"], "bomb": Bomb()}))
        assert ade20k.indexed_files(path) == (["x/a.jpg"] if folder == ["x"] else [])
    path.write_bytes(b"broken")
    assert ade20k.indexed_files(path) == []


def test_pascal_context_59_later_segments_lie_over_earlier_ones(tmp_path):
    left, right = np.zeros((trees.H, trees.W), bool), np.zeros((trees.H, trees.W), bool)
    left[:, :4], right[:, 3:5] = True, True
    corner = np.zeros((trees.H, trees.W), bool)
    corner[1:, 4:] = True
    segments = [(2, left, "compressed"), (458, right, "plain"), (360, corner, "plain"), (9, left & right, "compressed")]
    trees.pascal_context_59(
        tmp_path,
        [
            {"name": "2008_000002", "phase": "train", "segments": [(2, left, "compressed")]},
            {"name": "2008_000003", "phase": "val", "segments": segments},
            {"name": "2008_000009", "phase": "val", "segments": [(1, left, "compressed")]},
        ],
    )
    assert labels_of("pascal_context_59", tmp_path) == {
        "2008_000003": [0, 0, 0, 1, 58, -1, -1],
        "2008_000009": [-1] * 7,
    }
    known = BENCHMARKS["pascal_context_59"]
    lower = known.classes_of(known.read_values(known.find(tmp_path, "val").pairs[0].label))[-1]
    assert [known.vocabulary.names[k] for k in lower[2:5]] == ["aeroplane", "bag", "sky"]


def test_pascal_context_60_counts_other_labels_and_none_as_background(tmp_path):
    left, right = np.zeros((trees.H, trees.W), bool), np.zeros((trees.H, trees.W), bool)
    left[:, :2], right[:, 4:] = True, True
    segments = [(2, left, "compressed"), (1, right, "plain"), (458, right & ~left, "plain")]
    images = [{"name": f"2008_00000{k}", "phase": "val", "segments": segments[: k + 1]} for k in (1, 2)]
    trees.pascal_context_59(tmp_path, images)
    assert labels_of("pascal_context_60", tmp_path) == {
        "2008_000001": [1, 1, 0, 0, 0, 0, 0],
        "2008_000002": [1, 1, 0, 0, 59, 59, 59],
    }
    names = [BENCHMARKS[name].vocabulary.names for name in ("pascal_context_59", "pascal_context_60")]
    assert names[0][58] == names[1][59] == "wood"


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_coco(seed):
    rng = np.random.default_rng(seed)
    pixels = np.asfortranarray(np.repeat(rng.random((211, 23)) < 0.3, 1 + 40 * seed, axis=0).astype(np.uint8))
    runs = mask.encode(pixels)
    label = (*pixels.shape, ((7, {"size": runs["size"], "counts": runs["counts"].decode()}),))
    np.testing.assert_array_equal(pascal_context.painted(label), 7 * pixels)


def test_a_segment_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a segment of \[2, 3\] in an image of \[3, 2\]"):
        pascal_context.painted((3, 2, ((7, {"size": [2, 3], "counts": [6]}),)))


def test_pascal_context_59_ids_are_those_of_the_459_names():
    full, table = BENCHMARKS["pascal_context_459"].vocabulary.names, BENCHMARKS["pascal_context_59"].values()
    names = BENCHMARKS["pascal_context_59"].vocabulary.names
    other = {(name, full[value - 1]) for name, value in zip(names, table, strict=True) if name != full[value - 1]}
    assert other == {("diningtable", "table")}


def test_pascal_context_59_missing_photographs_and_half_a_file(tmp_path):
    whole = np.ones((trees.H, trees.W), bool)
    names = ["2008_000003", "2008_000009", "2008_000011"]
    images = [{"name": name, "phase": "val", "segments": [(2, whole, "compressed")]} for name in names[:2]]
    trees.pascal_context_59(tmp_path, [*images, {"name": names[2], "phase": "val", "segments": []}])
    (tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000009.jpg").unlink()
    found = pascal_context.find_59(tmp_path, "val")
    assert [pair.name for pair in found.pairs] == ["2008_000003"]
    assert found.problems == (
        "1 label(s) without image in VOCdevkit/VOC2010/JPEGImages: 2008_000009.jpg",
        "1 image(s) without label in VOCdevkit/VOC2010/trainval_merged.json: 2008_000011.jpg",
    )
    path = tmp_path / "VOCdevkit/VOC2010/trainval_merged.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"trainval_merged\.json is not the annotation file .* download it again"):
        pascal_context.find_59(tmp_path, "val")


def test_pascal_context_459(tmp_path):
    trees.pascal_context_459(tmp_path, {"2008_000003": rows([0, 1, 459, 360], np.uint16)})
    assert labels_of("pascal_context_459", tmp_path) == {"2008_000003": [-1, 0, 458, 359]}
    assert BENCHMARKS["pascal_context_459"].vocabulary.names[359] == "sky"


def test_pascal_context_459_other_matrices(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"Other": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="holds no matrix LabelMap"):
        pascal_context.label_map(path)


@pytest.mark.parametrize("palette", [True, False])
def test_voc_palettes_give_indices(tmp_path, palette):
    trees.voc(tmp_path, {"2007_000033": rows([0, 1, 20, 255])}, palette)
    assert labels_of("voc_20", tmp_path) == {"2007_000033": [-1, 0, 19, -1]}
    assert labels_of("voc_20b", tmp_path) == {"2007_000033": [20, 0, 19, -1]}
    assert labels_of("voc_21", tmp_path) == {"2007_000033": [0, 1, 20, -1]}


IDS = [
    0,
    6,
    7,
    8,
    9,
    11,
    18,
    24,
    29,
    33,
]  # unlabelled, ground, road, sidewalk, parking, building, polegroup, person, ...


@pytest.mark.parametrize("above", ["cityscapes", ""])
def test_cityscapes_below_the_root_or_as_the_root(tmp_path, above):
    trees.cityscapes(tmp_path / above, "val", {"lindau/lindau_000000_000019": rows(IDS)})
    trees.cityscapes(tmp_path / above, "val", {"munster/munster_000001_000019": rows(IDS[::-1])})
    trees.cityscapes(tmp_path / above, "train", {"aachen/aachen_000000_000019": rows([7, 33])})
    expected = [-1, -1, 0, 1, -1, 2, -1, 11, -1, 18]
    assert labels_of("cityscapes", tmp_path) == {
        "lindau/lindau_000000_000019": expected,
        "munster/munster_000001_000019": expected[::-1],
    }
    assert labels_of("cityscapes", tmp_path, "train") == {"aachen/aachen_000000_000019": [0, 18]}
    names = BENCHMARKS["cityscapes"].vocabulary.names
    assert [names[k] for k in (0, 1, 2, 11, 18)] == ["road", "sidewalk", "building", "person", "bicycle"]


def test_cityscapes_without_labels_or_at_another_place(tmp_path):
    trees.cityscapes(tmp_path, "val", {f"lindau/lindau_00000{k}_000019": rows(IDS) for k in range(2)})
    (tmp_path / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    found = BENCHMARKS["cityscapes"].find(tmp_path, "val")
    assert [pair.name for pair in found.pairs] == ["lindau/lindau_000000_000019"]
    assert found.problems == ("1 image(s) without label: lindau/lindau_000001_000019",)
    with pytest.raises(FileNotFoundError, match=r"lacks leftImg8bit/train, gtFine/train; .*leftImg8bit holds val/"):
        BENCHMARKS["cityscapes"].find(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="lacks cityscapes/leftImg8bit/val, cityscapes/gtFine/val; "):
        BENCHMARKS["cityscapes"].find(tmp_path / "leftImg8bit", "val")


def test_where_there_is_a_background():
    found = {name: known.background_index for name, known in BENCHMARKS.items() if known.background_index >= 0}
    assert found == {"voc_20b": 20, "voc_21": 0, "pascal_context_60": 0, "coco_object": 0}


def test_voc_20b_scores_21_of_59_names():
    known = BENCHMARKS["voc_20b"]
    assert (known.classes, len(known.vocabulary), label_files.bits(known.classes)) == (21, 59, 8)
    assert known.scored_names[-2:] == ("tvmonitor", "background")


def test_bits_hold_every_class():
    bits = {name: label_files.bits(known.classes) for name, known in BENCHMARKS.items()}
    assert {name for name, count in bits.items() if count == 16} == {
        "ade20k_847",
        "ade20k_847_jpeg",
        "pascal_context_459",
    }


def test_every_map_is_one_to_one():
    for known in BENCHMARKS.values():
        assert known.table[known.values()].tolist() == list(range(known.classes)), known.name
        others = np.setdiff1d(np.arange(len(known.table) + 3), known.values())
        assert set(known.classes_of(others)) == {known.rest}, known.name
        names = [name.split(", ")[0].strip() for name in known.scored_names]
        assert set(known.frequent) <= set(names), known.name


def test_maps_agree_with_the_shared_tables(shared):
    for name, column in (("coco_stuff", 1), ("ade20k_847", 1)):
        lines = [line.split("\t") for line in (shared / f"vocabularies/{name}.tsv").read_text().splitlines()[1:]]
        table = BENCHMARKS[name].table
        assert all(table[int(fields[column])] == int(fields[0]) for fields in lines)
        assert [fields[2] for fields in lines] == list(BENCHMARKS[name].vocabulary.names)
        if name == "coco_stuff":
            assert tuple(fields[4] for fields in lines) == BENCHMARKS[name].vocabulary.groups


def test_partners_are_missing(tmp_path):
    trees.ade20k_150(tmp_path, {f"ADE_val_{k}": rows([1, 2]) for k in range(3)})
    base = tmp_path / "ADEChallengeData2016"
    (base / "images/validation/ADE_val_0.jpg").unlink()
    (base / "annotations/validation/ADE_val_2.png").unlink()
    found = BENCHMARKS["ade20k_150"].find(tmp_path, "val")
    assert [pair.name for pair in found.pairs] == ["ADE_val_1"]
    assert found.problems == ("1 image(s) without label: ADE_val_2", "1 label(s) without image: ADE_val_0")


def test_colours_are_no_indices(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "colours.png")
    with pytest.raises(NotAnIndexMask, match="its pixels are RGB, not one number each"):
        BENCHMARKS["voc_20"].read_values(tmp_path / "colours.png")
    trees.png(tmp_path / "x_seg.png", rows([1]))
    with pytest.raises(NotAnIndexMask, match="its pixels are L, not red and green"):
        ade20k.object_ids(tmp_path / "x_seg.png")


def test_an_unknown_benchmark_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no benchmark 'coco'; choose one of coco_stuff, ade20k_150"):
        benchmark("coco")


def test_real_photographs_of_ade20k(shared):
    folder = shared / "data" / "ade20k_full_sample"
    if not folder.is_dir():
        pytest.skip(f"no sample of ADE20K at {folder}")
    known = BENCHMARKS["ade20k_847"]
    names = known.vocabulary.names
    largest = {}
    for path in sorted(folder.glob("*_seg.png")):
        classes = known.classes_of(known.read_values(path))
        with Image.open(path.with_name(path.name.replace("_seg.png", ".jpg"))) as photograph:
            assert classes.shape == (photograph.height, photograph.width)
        assert (classes < 0).mean() < 0.12
        counts = np.bincount(classes[classes >= 0], minlength=len(names))
        largest[path.stem] = [names[k].split(", ")[0] for k in np.argsort(-counts)[:5]]
    assert largest == {  # a street by day, with parked cars and a scooter; a street by night, with parked vans
        "ADE_train_00016900_seg": ["sidewalk", "tree", "building", "car", "minibike"],
        "ADE_train_00016964_seg": ["building", "sidewalk", "tree", "van", "streetlight"],
    }
