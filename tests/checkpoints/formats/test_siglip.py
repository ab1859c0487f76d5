"""A SigLIP's directory as its repository holds it: read, converted with its tokenizer, or refused."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.converted import load_converted, save_converted
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.tokenizer_files import write_tokenizer

torch = pytest.importorskip("torch")
PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """(model of transformers, its directory), small: 2 layers, 64 wide, patches of 8, a grid of 6."""
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = sizes | {"image_size": 48, "patch_size": 8}
    text = sizes | {"vocab_size": 33, "max_position_embeddings": 64, "projection_size": 64}
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text)).eval()
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizer"}))
    write_tokenizer(folder / "tokenizer.json")
    return model, folder


@pytest.fixture
def folder(repository, tmp_path):
    return shutil.copytree(repository[1], tmp_path / "siglip")


def test_text_is_that_of_transformers_after_conversion(repository, tmp_path):
    model, folder = repository
    save_converted(tmp_path / "converted", load_pretrained(folder))
    moved = shutil.move(tmp_path / "converted", tmp_path / "moved")
    found = load_converted(moved)
    assert found.config.text.tokenizer == str(tmp_path / "moved" / "tokenizer.json")
    assert found.config.image.pixel_mean == (127.5, 127.5, 127.5)
    tokens = Vocabulary(("cat", "cab"), ("a {}",)).tokens(found.config.text.context, found.config.text.tokenizer)
    padded = np.zeros((2, 64), np.int64)
    padded[:, : tokens.shape[2]] = tokens[:, 0]
    with torch.no_grad():
        expected = model.text_model(torch.from_numpy(padded)).pooler_output.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    params = {"params": {"clip": found.params["clip"]}}
    encode = jax.jit(functools.partial(build_model(found.config).apply, method="encode_text"))
    text = encode(params, tokens)
    np.testing.assert_allclose(text[:, 0], expected, atol=1e-5)


def test_every_tensor_is_read(repository):
    model, folder = repository
    leaves = dict(parameters.flatten(load_pretrained(folder).params))
    weights = model.state_dict()
    np.testing.assert_array_equal(
        leaves["clip/image/pool_probe"], weights["vision_model.head.probe"].reshape(-1).numpy()
    )
    np.testing.assert_array_equal(leaves["clip/text/logit_bias"], weights["logit_bias"].reshape(()).numpy())
    assert sum(leaf.size for leaf in leaves.values()) == sum(value.numel() for value in weights.values())


def test_without_its_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"read by the tokenizer\.json that belongs beside it; it is missing"):
        load_pretrained(folder)


def test_another_activation_is_refused(folder):
    stated = json.loads((folder / "config.json").read_text())
    stated["vision_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"vision_config\.hidden_act = 'gelu'"):
        load_pretrained(folder)
