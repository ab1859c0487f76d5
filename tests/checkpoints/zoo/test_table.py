"""The table of the model zoo."""

import re

import pytest

from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS, OTHERS
from ahs_seg_jax.checkpoints.formats.stated import OPENAI_MEAN, OPENAI_STD
from ahs_seg_jax.checkpoints.hub.names import parse
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.evaluation import expected
from ahs_seg_jax.inference.protocols import PROTOCOLS
from ahs_seg_jax.models.towers.config import ACTIVATIONS
from ahs_seg_jax.vocabulary import SCENE_TEMPLATE, imagenet_templates

GELU = {
    "clip-vitb16-laion2b", "clip-vitl14-laion2b", "clip-vitb16-datacomp", "clip-vitl14-datacomp",
    "clip-vitl14-dfn2b-39b", "clip-vitb16-metaclip2", "clip-vitl14-metaclip2", "pe-core-vitb16", "pe-core-vitl14-336",
    "eva02-clip-vitb16", "eva02-clip-vitl14-336",
}  # fmt: skip


def test_the_models_that_were_promised():
    assert {"catseg-vitb16", "catseg-vitl14", "clip-vitb16", "clip-vitl14", "clip-vitl14-336"} < set(zoo.table())
    assert {"siglip2-vitb16", "siglip2-vitl16", "siglip2-so400m14"} < set(zoo.table())
    assert {"pe-core-vitb16", "pe-core-vitl14-336", "eva02-clip-vitb16", "eva02-clip-vitl14-336"} < set(zoo.table())
    for trained_on in ("laion2b", "datacomp", "dfn2b", "metaclip", "metaclip2"):
        assert {f"clip-vitb16-{trained_on}", f"clip-vitl14-{trained_on}"} < set(zoo.table())


@pytest.mark.parametrize("entry", zoo.table().values(), ids=lambda entry: entry.name)
def test_every_row_makes_sense(entry):
    assert parse(str(entry.hub_name)) == entry.hub_name
    assert re.fullmatch(r"([0-9a-f]{40})?", entry.revision)
    assert re.fullmatch(r"([0-9a-f]{64})?", entry.sha256)
    assert entry.layout in ("", *LAYOUTS, *OTHERS)
    assert entry.activation in ACTIVATIONS
    assert (entry.activation == "gelu") == (entry.name in GELU)
    assert (entry.activation == "gelu_tanh") == entry.name.startswith("siglip2-")
    halves = entry.name == "clip-vitl14-laion2b" or entry.name.startswith(("siglip2-", "pe-core-"))
    usual = (OPENAI_MEAN, OPENAI_STD)
    assert (entry.pixel_mean, entry.pixel_std) == (((0.5,) * 3,) * 2 if halves else usual)
    assert entry.protocol in ("", *PROTOCOLS)
    assert not entry.expected or entry.expected in expected.table()["checkpoints"]
    assert entry.prompts == ((SCENE_TEMPLATE,) if entry.kind == "space" else imagenet_templates())
    assert entry.licence
    assert "arXiv:" in entry.citation
    if entry.sha256:  # no hash without the file it belongs to, and no two models with one
        assert entry.file
        assert [other.sha256 for other in zoo.table().values()].count(entry.sha256) == 1


def test_names_of_the_hub_that_mean_a_model_of_the_zoo():
    table = zoo.table()
    assert zoo.of_place(parse("openai/clip-vit-base-patch16")) == table["clip-vitb16"]
    assert zoo.of_place(parse("openai/clip-vit-base-patch16@v1/pytorch_model.bin")) == table["clip-vitb16"]
    assert zoo.of_place(parse("openai/clip-vit-base-patch16/model.safetensors")) == table["clip-vitb16"]
    assert zoo.of_place(parse("spaces/hamacojr/CAT-Seg-weights/model_large.pth")) == table["catseg-vitl14"]
    assert zoo.of_place(parse("spaces/hamacojr/CAT-Seg-weights")) is None  # two models: it does not say which
    assert zoo.of_place(parse("hamacojr/CAT-Seg-weights/model_large.pth")) is None  # a model repository


def test_a_table_of_ones_own(tmp_path, monkeypatch):
    path = tmp_path / "zoo.toml"
    monkeypatch.setenv("AHS_SEG_ZOO", str(path))
    path.write_text('[ours]\ntitle = "Ours"\nrepo = "group/model"\npixel_mean = [0.5, 0.5, 0.5]\n')
    assert zoo.table() == {"ours": zoo.Entry("ours", "Ours", "group/model", pixel_mean=(0.5, 0.5, 0.5))}
    for text, problem in (
        ("[ours]\nrepo = 'a/b'\n", "ours has no title"),
        ("[ours]\ntitle = 'x'\nrepo = 'a/b'\nsize = 3\n", r"ours\.size is unknown; choose one of title, repo, kind"),
        ("[ours]\ntitle = 'x'\nrepo = 'a/b'\nbytes = '3'\n", r"ours\.bytes is '3', which is no bytes"),
        ("[ours]\ntitle = 'x'\nrepo = 'a/b'\nkind = 'git'\n", r"ours\.kind is 'git', which is no kind"),
        ("[ours]\ntitle = 'x'\nrepo = 'a/b'\npixel_std = [1.0]\n", r"ours\.pixel_std is \(1\.0,\)"),
        ("ours = 3\n", "ours is 3, where a table is expected"),
        ("[ours", "is no TOML"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=problem):
            zoo.table()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"zoo\.toml cannot be read .*AHS_SEG_ZOO names it"):
        zoo.table()
