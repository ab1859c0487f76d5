"""Which files of a repository are wanted."""

import json

import pytest

from ahs_seg_jax.checkpoints.hub import choice


@pytest.mark.parametrize(
    ("kind", "names", "file", "wanted"),
    [
        ("siglip", ["tokenizer.json", "model.safetensors"], "", ["tokenizer.json"]),
        ("siglip", ["a/tokenizer.json", "tokenizer.json"], "a/model.safetensors", ["a/tokenizer.json"]),
        ("siglip", ["model.safetensors"], "", []),
        ("metaclip_2", ["tokenizer.json", "model.safetensors"], "", ["tokenizer.json"]),
        ("clip", ["tokenizer.json"], "", []),
    ],
)
def test_a_tokenizer_is_wanted_where_clips_own_will_not_do(kind, names, file, wanted, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    small = {"config.json": tmp_path / "config.json", "a/config.json": tmp_path / "config.json"}
    assert choice.words_file(small, names, file) == wanted


@pytest.mark.parametrize(
    ("named", "wanted"), [("tokenizer.json", ["tokenizer.json"]), ("clip", []), (3, []), (None, [])]
)
def test_a_published_model_says_it_in_its_manifest(named, wanted, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"config": {"text": {"tokenizer": named}}}))
    small = {"manifest.json": tmp_path / "manifest.json"}
    assert choice.words_file(small, ["model.safetensors", "tokenizer.json"], "") == wanted
    (tmp_path / "manifest.json").write_text("[1")
    assert choice.words_file(small, ["tokenizer.json"], "") == []
