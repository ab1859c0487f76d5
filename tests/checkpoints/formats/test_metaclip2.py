"""A MetaCLIP 2's directory as its repository holds it: read with its tokenizer, written again, or refused."""

import json
import shutil

import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import convert, writers
from ahs_seg_jax.checkpoints.pretrained import convert_checkpoint, load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.tokenizer_files import XLM_V, write_tokenizer

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """(model of transformers, its directory), small: 2 layers, 64 wide, patches of 8, a grid of 3."""
    import transformers

    shared = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}
    shared |= {"hidden_act": "gelu", "projection_dim": 32}
    words = shared | {"vocab_size": 33, "max_position_embeddings": 16, "eos_token_id": 2}
    words |= {"bos_token_id": 0, "pad_token_id": 1}
    torch.manual_seed(0)
    config = transformers.MetaClip2Config(
        vision_config=shared | {"image_size": 24, "patch_size": 8}, text_config=words, projection_dim=32
    )
    model = transformers.MetaClip2Model(config).eval()
    folder = tmp_path_factory.mktemp("metaclip2")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(writers.hf_pixels(load_pixels())))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    write_tokenizer(folder / "tokenizer.json", XLM_V)
    return model, folder


def load_pixels():
    from ahs_seg_jax.models.towers.config import ImageTowerConfig

    return ImageTowerConfig(patch_size=8, pretrained_grid=3)


@pytest.fixture
def folder(repository, tmp_path):
    return shutil.copytree(repository[1], tmp_path / "metaclip2")


def embeddings(pretrained):
    tokens = Vocabulary(("cat", "cab"), ("a {}",)).tokens(16, pretrained.config.text.tokenizer)
    params = {"params": {"clip": pretrained.params["clip"]}}
    return tokens, build_model(pretrained.config).apply(params, tokens, method="encode_text")[:, 0]


def test_text_is_that_of_transformers(repository, folder):
    model, _ = repository
    found = load_pretrained(folder)
    assert (found.config.text.tower, found.config.image.tower) == ("metaclip2", "clip")
    assert (found.config.image.activation, found.config.text.activation) == ("gelu", "gelu")
    assert found.config.text.tokenizer == str(folder / "tokenizer.json")
    tokens, text = embeddings(found)
    with torch.no_grad():
        pooled = model.text_model(torch.from_numpy(tokens[:, 0]).long()).pooler_output
        expected = model.text_projection(pooled).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(text, expected, atol=1e-5)


def test_there_and_back(repository, folder, assert_same, tmp_path):
    """Converted, then written as a directory that transformers reads: with the words, at another place."""
    import transformers

    found = load_pretrained(folder)
    convert_checkpoint(folder, tmp_path / "converted")
    convert_checkpoint(tmp_path / "converted", tmp_path / "again", to="hf_clip")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "converted")
    again = load_pretrained(shutil.move(tmp_path / "again", tmp_path / "moved"))
    assert_same(again.params, found.params)
    assert again.config.text.tokenizer == str(tmp_path / "moved" / "tokenizer.json")
    theirs = transformers.MetaClip2Model.from_pretrained(tmp_path / "moved")
    assert theirs.config.text_config.eos_token_id == 2
    for name, value in repository[0].state_dict().items():
        np.testing.assert_array_equal(theirs.state_dict()[name], value)


def test_a_lone_file_brings_the_words_along(folder, assert_same, tmp_path):
    convert_checkpoint(folder, tmp_path / "out.safetensors", to="hf_clip")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    again = load_pretrained(tmp_path / "out.safetensors")
    assert again.config.text.tokenizer == str(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(embeddings(again)[1], embeddings(load_pretrained(folder))[1])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is another tokenizer than .*write into another folder"):
        convert_checkpoint(folder, tmp_path / "other" / "out.safetensors", to="hf_clip")


def test_without_its_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"are read by the tokenizer\.json that belongs beside it; it is missing"):
        load_pretrained(folder)


def test_layouts_that_have_no_place_for_its_words(folder):
    found = load_pretrained(folder)
    with pytest.raises(
        CheckpointError,
        match=r"openai_clip has no place for the towers 'clip' and 'metaclip2' \(of images and of texts\); write "
        "ahs_seg or hf_clip, or keep the converted folder",
    ):
        convert.left_out("openai_clip", found.config, found.params)
