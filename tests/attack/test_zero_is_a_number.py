"""0 is a number that somebody gave: it is neither False nor "not given"."""

import ast
import pathlib

import pytest
from typer.testing import CliRunner

import ahs_seg_jax
from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import segment_settings
from ahs_seg_jax.cli.app import app
from ahs_seg_jax.devices import distributed
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import Segmenter

PLAIN = {"blend": "smooth", "window": None, "stride": None, "overlap": None, "global_view": False}


def test_an_overlap_of_zero_is_one():
    assert segment_settings.parse_windows("native", **PLAIN | {"overlap": 0.0}) == NativeWindows(overlap=0.0)
    assert segment_settings.parse_windows("native", **PLAIN) == NativeWindows()
    assert NativeWindows(overlap=0.0).grid((96, 96), 32).columns.starts == [0, 32, 64]
    assert NativeWindows().grid((96, 96), 32).columns.starts != [0, 32, 64]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--window", "the window is 0 pixels; give at least 1"),
        ("--stride", "the stride is 0 pixels; give at least 1"),
        ("--memory-gb", "more than memory_gb = 0"),
        ("--keep", "keep is 0; pass a number of classes"),
    ],
)
def test_a_zero_that_cannot_be_is_refused(tmp_path, option, text):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ["segment", str(tmp_path / "a.png"), "--classes", "grass", "--windows", "native", "--plan"]
    found = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out"), option, "0"])
    assert (found.exit_code, text in found.output) == (2, True), found.output


@pytest.mark.parametrize("option", ["window", "stride", "overlap"])
def test_a_zero_without_native_windows_is_misplaced_too(option):
    with pytest.raises(ValueError, match=f"--{option} needs --windows native"):
        segment_settings.parse_windows("", **PLAIN | {option: 0})


def test_a_bool_is_no_number():
    segmenter = Segmenter.from_pretrained(packaged.TINY)
    for value in (True, False):
        with pytest.raises(ValueError, match=f"keep is {value}; pass a number of classes"):
            Segmenter.from_pretrained(packaged.TINY, keep=value)
        with pytest.raises(ValueError, match=f"unknown is {value}; pass 'none', a probability"):
            segmenter.words(["grass"], value)
    assert segmenter.words(["grass"], 0).threshold == 0.0


def test_an_empty_protocol_is_not_the_models_own():
    segmenter = Segmenter.from_pretrained(packaged.TINY)
    with pytest.raises(ValueError, match="unknown protocol ''; choose one of"):
        segmenter(packaged_image(), ["grass"], protocol="")


def packaged_image():
    from ahs_seg_jax.demo import examples

    return examples.examples()[0].image


def test_no_time_at_all_is_a_time():
    assert distributed.Watch(0)._seconds == 0
    assert distributed.Watch()._seconds == distributed._timeout


@pytest.mark.parametrize("text", ["²", "٣", "-1", "0x3", "1.5", ""])
def test_what_only_looks_like_a_number_is_refused(text):
    with pytest.raises(ValueError, match="give model, auto, all, or a number of classes"):
        segment_settings.parse_keep(text)


def _values(node: ast.expr) -> list[object]:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else []
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def test_no_line_looks_for_false_among_values_to_which_zero_is_equal():
    wrong = []
    for path in sorted(pathlib.Path(ahs_seg_jax.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
                values = _values(node.comparators[0])
                if any(isinstance(value, bool) for value in values):
                    wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong
