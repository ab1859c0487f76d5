"""Prompts that begin alike: split by hand, and the same embeddings and gradients as from whole prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import architecture, prompts
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.goldens import assert_close, assert_trees_close

START, END = 90, 91


@pytest.mark.parametrize(
    ("rows", "prefix", "rest"),
    [
        ([[START, 5, 7, END, 0, 0], [START, 5, 8, 9, END, 0]], [START, 5], [[7, END, 0], [8, 9, END]]),
        ([[START, 5, END, 0], [START, 5, END, 0]], [START, 5], [[END], [END]]),
        ([[START, 5, END, 0], [START, 5, 6, END]], [START, 5], [[END, 0], [6, END]]),
        ([[1, 2, END], [3, 2, END]], [], [[1, 2, END], [3, 2, END]]),
    ],
    ids=["longer and shorter", "the same", "one begins like the other", "nothing alike"],
)
def test_split(rows, prefix, rest):
    found = prompts.split(np.array(rows)[:, None])
    assert found.prefix.tolist() == prefix
    assert found.rest[:, 0].tolist() == rest


def test_published_prompt_shares_five_tokens():
    found = prompts.split(Vocabulary.named("coco_stuff").tokens())
    assert (len(found.prefix), found.rest.shape) == (5, (171, 1, 7))


@pytest.mark.parametrize("remat", ["none", "cheap", "all"])
def test_embeddings_and_gradients_are_those_of_whole_prompts(remat):
    model = AHSSeg(architecture.tiny().replace(remat=remat))
    names = ("cat", "old wooden house", "sofa")
    whole = Vocabulary(names, templates=("a photo of a {}", "a drawing of a {}, old")).tokens(32)
    split = prompts.split(whole)
    assert len(split.prefix) == 2  # the start and "a"
    init = lambda key: model.init(key, jnp.asarray(whole), method="encode_text")["params"]
    params = jax.jit(init)(jax.random.key(0))
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((3, 2, model.config.embed_dim), np.float32))

    def weighted(params, tokens):
        embeddings = model.apply({"params": params}, tokens, method="encode_text")
        return (embeddings * weights).sum(), embeddings

    gradient = jax.jit(jax.grad(weighted, has_aux=True))
    (expected, plain), (found, shared) = gradient(params, jnp.asarray(whole)), gradient(params, split)
    assert_close(shared, plain, 1e-5)
    assert_trees_close(found, jax.tree.map(np.asarray, expected), 1e-4, zero=("blocks/key/bias",))
