"""The table of data sets."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.catalogue import SOURCES, open_source
from ahs_seg_jax.data.coco_downloads import CocoStuffSource
from ahs_seg_jax.data.folder import DataProblems
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.data.source import Source
from tests.support import trees


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = "scenes"
    root: str = ""
    templates: tuple[str, ...] = ()
    scenes: ScenesConfig = dataclasses.field(default_factory=lambda: ScenesConfig(val_images=3))


def test_scenes_by_name():
    source = open_source(Settings(), "val")
    assert isinstance(source, ScenesSource)
    assert isinstance(source, Source)
    assert len(source) == 3


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=rf"data\.name is 'scene'; choose one of {', '.join(sorted(SOURCES))}$"):
        open_source(Settings(name="scene"), "val")


def test_every_benchmark_has_a_name():
    assert set(SOURCES) == {"scenes", "folder", *BENCHMARKS}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "coco_stuff"])
def test_a_benchmark_that_is_not_prepared_says_what_to_do(tmp_path, monkeypatch, name):
    with pytest.raises(ValueError, match=rf"{name} is not prepared: (.|\n)*ahs-seg data prepare {name} "):
        open_source(Settings(name=name, root=str(tmp_path)), "val")
    monkeypatch.delenv("AHS_SEG_DATA", raising=False)
    with pytest.raises(ValueError, match=r"data\.root is empty, and so is the environment variable AHS_SEG_DATA"):
        open_source(Settings(name=name), "val")


def test_prepared_benchmarks_by_name(tmp_path, monkeypatch):
    trees.voc(tmp_path, {"2007_000033": trees.rows([0, 1, 255])})
    trees.prepared(BENCHMARKS["voc_20"], tmp_path)
    monkeypatch.setenv("AHS_SEG_DATA", str(tmp_path))
    source = open_source(Settings(name="voc_20", templates=("{}",)), "val")
    assert isinstance(source, PreparedSource)
    assert source.vocabulary.templates == ("{}",)
    assert source[0]["label"][0].tolist() == [-1, 0, -1]


def test_templates_make_the_prompts_and_leave_the_rest():
    plain = open_source(Settings(), "val").vocabulary
    changed = open_source(Settings(templates=("{}", "the {}")), "val").vocabulary
    assert plain.prompts()[-1] == [f"A photo of a {plain.names[-1]} in the scene"]
    assert changed.prompts()[-1] == [plain.names[-1], f"the {plain.names[-1]}"]
    assert (changed.names, changed.groups, changed.synonyms) == (plain.names, plain.groups, plain.synonyms)


def test_coco_stuff_by_name(tmp_path):
    for part in ("images", "annotations"):
        (tmp_path / "coco-stuff" / part / "val2017").mkdir(parents=True)
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(tmp_path / "coco-stuff/images/val2017/000000000139.jpg")
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "coco-stuff/annotations/val2017/000000000139.png")
    source = open_source(Settings(name="coco_stuff", root=str(tmp_path)), "val")
    assert isinstance(source, CocoStuffSource)
    assert isinstance(source, Source)


def test_folder_needs_a_root(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root is empty; name the folder"):
        open_source(Settings(name="folder"), "train")
    with pytest.raises(DataProblems, match="there is no folder"):
        open_source(Settings(name="folder", root=str(tmp_path / "none")), "train")
