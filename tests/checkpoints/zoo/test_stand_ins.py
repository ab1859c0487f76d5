"""Every model of the zoo by its name, from a hub on the loopback that has stand-ins in their true formats."""

import sys

import pytest

from ahs_seg_jax.checkpoints.formats.stated import in_pixels
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.checkpoints.zoo import table as zoo
from scripts import pin_zoo
from tests.support import zoo_models

PUBLISHED = zoo._packaged()


@pytest.fixture
def stand_in(hub, torch, tmp_path, monkeypatch):
    """Puts the stand-in of a model on the hub, and its pins into the table; from then on there is no torch."""
    path = tmp_path / "zoo.toml"
    path.write_text(pin_zoo.TABLE.read_text("utf-8"), "utf-8")

    def add(name: str) -> zoo.Entry:
        zoo_models.add_to(hub, PUBLISHED[name], tmp_path)
        assert pin_zoo.main(["--table", str(path), "--again", name]) == 0
        monkeypatch.setenv(zoo.VARIABLE, str(path))
        monkeypatch.setitem(sys.modules, "torch", None)
        return zoo.table()[name]

    return add


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_read_by_its_name_without_torch(hub, stand_in, assert_same, name):
    entry = stand_in(name)
    found = load_pretrained(name)
    layout = zoo_models.layout_of(PUBLISHED[name])
    assert_same(found.params, zoo_models.params_of(layout))
    assert found.config == zoo_models.config_of(entry)
    assert (found.config.image.activation, found.config.text.activation) == (entry.activation,) * 2
    assert found.config.image.pixel_mean == in_pixels("pixel_mean", entry.pixel_mean)
    assert found.templates == entry.prompts
    source = found.manifest["source"]
    assert (source["layout"], source["sha256"]) == (layout, entry.sha256)
    assert source["hub"]["revision"] == entry.revision
    assert len(hub.downloads()) == 1
    assert not any(path.endswith((".msgpack", "tokenizer.json")) for _, path, _ in hub.asked)
