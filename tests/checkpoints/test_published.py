"""Publishing on a hub on the loopback, and reading back."""

import json
import pathlib

import numpy as np
import pytest

from ahs_seg_jax import Segmenter
from ahs_seg_jax.checkpoints import manifest, published, store
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained, training_meta
from ahs_seg_jax.cli import push as command
from ahs_seg_jax.errors import CheckpointError
from tests.support import ROOT
from tests.support.fake_hub import TOKEN
from tests.support.small import plain_model

# The hub's client hands a file to its HTTP library in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

META = {
    "step": 7,
    "vocabulary": {"names": ["sky", "old oak tree, oak", "cat"], "templates": ["a {} here", "one {}"]},
    "config": {
        "init": "clip-vitb16-metaclip",
        "data": {"name": "coco_stuff"},
        "train": {"batch_size": 4, "finetune": "attention"},
        "eval": {"protocol": "whole"},
    },
}


@pytest.fixture
def hub(hub, monkeypatch):
    """The hub, with an account; what is uploaded goes by LFS, which the hub on the loopback speaks."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def run(small, random_params, tmp_path):
    """A training run with two results files, and its parameters."""
    params = random_params("ahs_seg", small)
    learned = {name: tree for name, tree in params.items() if name != "clip"}
    state = {
        "trainable": learned,
        "frozen": {"clip": params["clip"]},
        "opt_state": {},
        "ema": None,
        "step": np.int32(7),
    }
    meta = META | {"config": META["config"] | {"model": manifest.config_to_json(small)}}
    checkpoints = store.CheckpointStore(tmp_path / "run", keep=1)
    checkpoints.save(7, state, meta)
    checkpoints.finish()
    checkpoints.close()
    results = json.loads((ROOT / "results/tiny/scenes_val.json").read_text())
    (tmp_path / "run/results").mkdir()
    (tmp_path / "run/results/scenes_val.json").write_text(json.dumps(results | {"checkpoint": {"step": 7}}))
    earlier = {"checkpoint": {"step": 5}, "benchmark": "voc_20", "protocol": "cat_seg", "incomplete": ["stopped"]}
    (tmp_path / "run/results/voc_20.json").write_text(json.dumps(results | earlier))
    return tmp_path / "run", params


def test_a_run_is_published_and_read_back_exactly(hub, run, small, assert_same, capsys):
    command.run(str(run[0]), "someone/streets", "mit", private=False, merge=False)
    assert capsys.readouterr().out.strip() == f"{hub.endpoint}/someone/streets"
    repository = hub.repositories["someone/streets"]
    files = repository.commits[repository.tags["main"]]
    assert sorted(files) == [
        "README.md", "manifest.json", "model.safetensors", "results/scenes_0.json", "results/voc_20_1.json",
    ]  # fmt: skip
    assert len(repository.commits) == 2  # the empty repository, and one commit

    found = load_pretrained("someone/streets")
    assert_same(found.params, run[1])
    assert found.config == small
    assert found.templates == ("a {} here", "one {}")
    assert found.protocol == "whole"
    assert found.trained_names == tuple(META["vocabulary"]["names"])
    assert training_meta("someone/streets")["step"] == 7
    assert found.manifest["source"]["hub"]["repository"] == "someone/streets"


def test_the_card_says_what_the_files_say(hub, run, small):
    command.run(str(run[0]), "someone/streets", "mit", private=False, merge=False)
    repository = hub.repositories["someone/streets"]
    card = repository.commits[repository.tags["main"]]["README.md"].decode()
    head, body = card.removeprefix("---\n").split("\n---\n")
    assert head.splitlines() == [
        "library_name: ahs_seg_jax", "pipeline_tag: image-segmentation", 'license: "mit"',
        "base_model: facebook/metaclip-b16-fullcc2.5b", "tags:", "- open-vocabulary", "- semantic-segmentation",
        "- jax", "- flax",
    ]  # fmt: skip
    for line in (
        "# streets",
        "| data | coco_stuff |",
        "| classes | 3 |",
        "| started from | `clip-vitb16-metaclip` (MetaCLIP, ViT-B/16 on 2.5 billion pairs) |",
        "| steps | 7 |",
        "| prompts | `a {} here`, `one {}` |",
        "| scenes val | whole | 74.13 | 78.00 | 53.52 | 82.11 | 200 |  |",
        "| voc_20 val | cat_seg | 74.13 | 78.00 | 53.52 | 82.11 | 200 | of step 5, incomplete |",
        'segmenter = Segmenter.from_pretrained("someone/streets")',
        'result = segmenter("photo.jpg", ["sky", "old oak tree"])',
        "Licence: mit.",
        "- Xu et al., Demystifying CLIP Data, ICLR 2024, arXiv:2309.16671",
    ):
        assert line in body.splitlines()
    assert "whose licence is: CC-BY-NC-4.0 (not for commercial use)." in body


def test_publishing_again_replaces_what_was_there(hub, run, assert_same):
    command.run(str(run[0]), "someone/streets", "", private=False, merge=False)
    (run[0] / "results/voc_20.json").unlink()
    command.run(str(run[0]), "someone/streets", "", private=False, merge=True)
    repository = hub.repositories["someone/streets"]
    assert "results/voc_20_1.json" not in repository.commits[repository.tags["main"]]
    assert load_pretrained("someone/streets").config.adaptation == "none"
    assert load_pretrained("someone/streets@" + list(repository.commits)[1]).config.adaptation == "ha_hem"
    card = repository.commits[repository.tags["main"]]["README.md"].decode()
    assert "Its licence is not stated." in card
    assert "license:" not in card


def test_a_segmenter_is_published_and_read_back_exactly(hub, assert_same):
    model, params = plain_model()
    segmenter = Segmenter(model.config, params, ("{}!",), protocol="whole")
    assert segmenter.push_to_hub("someone/small", private=True) == f"{hub.endpoint}/someone/small"
    assert hub.repositories["someone/small"].private
    again = Segmenter.from_pretrained("someone/small")
    assert again.config == segmenter.config
    assert_same(load_pretrained("someone/small").params, params)
    assert (again.templates, again.protocol.name) == (("{}!",), "whole")
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    one, other = (s.logits(image, ["cat", "sofa"]) for s in (segmenter, again))
    np.testing.assert_array_equal(one, other)
    assert again.push_to_hub("someone/copy").endswith("/someone/copy")
    assert_same(load_pretrained("someone/copy").params, params)


def test_bare_towers_are_published_too(hub, visible, random_params, assert_same):
    clip = Pretrained(visible, random_params("openai_clip", visible), {"source": {"path": "x"}})
    published.publish(clip, "someone/towers")
    found = load_pretrained("someone/towers")
    assert_same(found.params, clip.params)
    assert found.config == visible
    repository = hub.repositories["someone/towers"]
    assert "--config.init=someone/towers" in repository.commits[repository.tags["main"]]["README.md"].decode()


def test_who_may_not_publish_is_told_before_anything_is_written(hub, run, monkeypatch):
    source = str(run[0])
    for name in ("streets", "spaces/someone/streets", "someone/streets@v1", "./streets"):
        with pytest.raises(CheckpointError, match="is no name of a model on the hub; give owner/name"):
            command.run("nowhere", name, "", private=False, merge=False)
    hub.add("someone/bert", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match=r"holds a model of another program \(config\.json, pytorch_model\.bin\)"):
        command.run(source, "someone/bert", "", private=False, merge=False)
    with pytest.raises(CheckpointError, match=r"the hub refuses another/one \(status 403\): the token is not valid"):
        command.run(source, "another/one", "", private=False, merge=False)
    (run[0] / "results/notes.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"notes\.json is no results file of an evaluation"):
        command.run(source, "someone/streets", "", private=False, merge=False)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(CheckpointError, match=r"refuses someone/streets .*token is not valid for it; log in"):
        published.publish(load_pretrained(source), "someone/streets")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=r"writing to someone/streets needs an account of the hub: log in"):
        published.publish(load_pretrained(source), "someone/streets")
    assert set(hub.repositories) == {"someone/bert"}


def test_a_damaged_manifest_is_noticed(hub, run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    published.write(folder, load_pretrained(run[0]), [], "someone/x")
    content = json.loads((folder / "manifest.json").read_text())
    content["training"]["step"] = 8
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"damaged: .*manifest\.json is not what was written there"):
        load_pretrained(pathlib.Path(folder))
