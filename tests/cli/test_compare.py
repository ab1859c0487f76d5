"""`ahs-seg compare`: which model takes which words, titles, pictures, failures."""

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import compare
from ahs_seg_jax.demo.examples import examples


@pytest.mark.parametrize(
    ("models", "lists", "expected"),
    [
        (["a", "b"], ["x; y"], [("a", ("x", "y")), ("b", ("x", "y"))]),
        (["a"], ["x", "y,z", "w"], [("a", ("x",)), ("a", ("y, z",)), ("a", ("w",))]),
        (["a", "b"], ["x", "y"], [("a", ("x",)), ("b", ("y",))]),
    ],
)
def test_pairs(models, lists, expected):
    assert compare.paired(models, lists) == [compare.Shown(*pair) for pair in expected]


def test_methods_are_paired_too():
    by = lambda method: compare.Shown("a", ("x",), method)
    assert compare.paired(["a"], ["x"], ["naclip", "model"]) == [by("naclip"), by(None)]
    assert compare.titles([by("naclip"), by(None)]) == ["naclip", "model"]
    with pytest.raises(ValueError, match="there are 1 --model, 2 --classes, 3 --method and 1 --activation"):
        compare.paired(["a"], ["x", "y"], ["naclip", "clip", "sclip"])


@pytest.mark.parametrize(
    ("models", "lists", "text"),
    [
        (["a", "b"], [], "no words: give --classes"),
        (["a"], ["x"], "there are 1 --model, 1 --classes, 1 --method and 1 --activation; give one of them two to"),
        (["a", "b"], ["x", "y", "z"], "there are 2 --model, 3 --classes"),
        (["a"] * 5, ["x"], "there are 5 --model"),
    ],
)
def test_what_cannot_be_paired(models, lists, text):
    with pytest.raises(ValueError, match=text):
        compare.paired(models, lists)


def test_titles_say_what_differs():
    words = ("a", "b", "c", "d", "e")
    titles = lambda *pairs: compare.titles([compare.Shown(*pair) for pair in pairs])
    assert titles(("m", ("a",)), ("n", ("a",))) == ["m", "n"]
    assert titles(("m", ("a",)), ("m", words)) == ["a", "a, b, c and 2 more"]
    assert titles(("m", ("a",)), ("n", ("b",))) == ["m: a", "n: b"]
    assert titles(("m", ("a",)), ("m", ("a",))) == ["m", "m"]


def test_pictures_and_failures(tmp_path, capsys):
    image = examples()[0].image
    Image.fromarray(image).save(tmp_path / "scene.png")
    (tmp_path / "empty.png").write_bytes(b"")
    words = [compare.Shown("tiny", names) for names in (("grass", "brick wall", "sand"), ("sand", "grass", "red toy"))]
    given = [str(tmp_path / "scene.png"), str(tmp_path / "empty.png")]
    assert compare.run(given, words, tmp_path / "out", None, None) == 1
    with Image.open(tmp_path / "out" / "scene.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape[0] >= 384
    assert shown.shape[1] > 3 * 384  # two results with legends, and where they differ
    said = capsys.readouterr().err
    assert "[2/2]" in said
    assert "FAILED: " in said
    assert "the file is empty" in said


def test_mistakes_come_before_the_first_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    given = [str(tmp_path / "a.png")]
    shown = [compare.Shown("tiny", ("cat",)), compare.Shown("tiny", ("dog", "Dog"))]
    with pytest.raises(ValueError, match="repeats name"):
        compare.run(given, shown, tmp_path / "out", None, None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OSError, match=r"results cannot be written to .* choose another --output"):
        compare.run(given, [compare.Shown("tiny", ("cat",))] * 2, tmp_path / "a.png", None, None)
