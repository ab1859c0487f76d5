"""The table of data sets."""

import dataclasses

import pytest

from ahs_seg_jax.data.folder import DataProblems
from ahs_seg_jax.data.scenes import ScenesConfig, ScenesSource
from ahs_seg_jax.data.sources import Source, open_source


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = "scenes"
    root: str = ""
    scenes: ScenesConfig = dataclasses.field(default_factory=lambda: ScenesConfig(val_images=3))


def test_scenes_by_name():
    source = open_source(Settings(), "val")
    assert isinstance(source, ScenesSource)
    assert isinstance(source, Source)
    assert len(source) == 3


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"data\.name is 'scene'; choose one of folder, scenes"):
        open_source(Settings(name="scene"), "val")


def test_folder_needs_a_root(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root is empty; name the folder"):
        open_source(Settings(name="folder"), "train")
    with pytest.raises(DataProblems, match="there is no folder"):
        open_source(Settings(name="folder", root=str(tmp_path / "none")), "train")
