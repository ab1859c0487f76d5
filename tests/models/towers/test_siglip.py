"""SigLIP's towers against transformers' SiglipModel on random weights: values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import siglip as layout
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.towers import siglip
from tests.support.towers import close, filled, shaken

torch = pytest.importorskip("torch")
WHERE = "a test"


@pytest.fixture(scope="module")
def published():
    """Prime sizes where heads allow: width 66 of 3 heads, MLP 131, grid 5, context 7."""
    import transformers

    sizes = {"hidden_size": 66, "intermediate_size": 131, "num_attention_heads": 3, "layer_norm_eps": 1e-6}
    vision = sizes | {"num_hidden_layers": 3, "image_size": 35, "patch_size": 7}
    text = sizes | {"num_hidden_layers": 2, "vocab_size": 53, "max_position_embeddings": 7, "projection_size": 66}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def ours(published):
    """Our configuration and parameters from the published model's tensors by the layout's table."""
    tensors = {name: value.numpy() for name, value in published.state_dict().items()}
    config = layout.model_config(
        {name: value.shape for name, value in tensors.items()}, published.config.to_dict(), WHERE
    )
    assert {entry.source for entry in layout.entries(config)} == set(tensors)
    return config, filled(layout.entries(config), tensors)["clip"]


def images(count=2, side=35):
    return np.random.default_rng(1).standard_normal((count, side, side, 3), np.float32)


def image_tower(config, **changes):
    return siglip.ImageTower(dataclasses.replace(config.image, **changes), config.embed_dim)


def applied(tower, params, *given, **options):
    """The tower's results, as one program."""
    return jax.jit(lambda params: tower.apply({"params": params}, *given, **options))(params)


def test_sizes_are_read(ours):
    config, _ = ours
    assert (config.image.layers, config.image.heads, config.image.mlp_width, config.image.crop) == (3, 3, 131, 35)
    assert (config.text.context, config.text.vocab_size, config.embed_dim) == (7, 53, 66)
    assert (config.image.pixel_mean, config.image.activation) == ((127.5, 127.5, 127.5), "gelu_tanh")
    assert config.aggregator.window == 5


def test_pooled_and_blocks(published, ours):
    config, params = ours
    pixels = images()
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        found = published.vision_model(given, output_hidden_states=True)
    tower = image_tower(config)
    close(applied(tower, params["image"], pixels, method="pooled"), found.pooler_output)
    _, taps = applied(tower, params["image"], pixels, (0, 2))
    for tap in (0, 2):
        close(taps[tap].reshape(2, 25, 66), found.hidden_states[tap + 1])


def dense_of(model, pixels):
    """Each token alone through the published pooling head."""
    tokens = model.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).last_hidden_state
    return model.vision_model.head(tokens.reshape(-1, 1, 66)).reshape(-1, 5, 5, 66)


def test_dense_features_are_the_head_on_each_token_alone(published, ours):
    config, params = ours
    with torch.no_grad():
        expected = dense_of(published, images())
    found, _ = applied(image_tower(config), params["image"], images(), ())
    close(found, expected)


def test_gradients(published, ours):
    config, params = ours
    pixels, tower = images(), image_tower(config)
    dense_of(published, pixels).square().sum().backward()
    loss = lambda params: (tower.apply({"params": params}, pixels, ())[0] ** 2).sum()
    found = jax.jit(jax.grad(loss))(params["image"])
    head = published.vision_model.head
    close(found["pool_out"]["kernel"], head.attention.out_proj.weight.grad.T, 1e-4)
    close(found["pool_mlp_in"]["kernel"], head.mlp.fc1.weight.grad.T, 1e-4)
    first = published.vision_model.encoder.layers[0]
    close(found["blocks"]["query"]["kernel"][0], first.self_attn.q_proj.weight.grad.T, 1e-4)
    close(found["position_embedding"], published.vision_model.embeddings.position_embedding.weight.grad, 1e-4)


def test_positions_of_another_crop(published, ours):
    config, params = ours
    pixels = images(side=49)
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        expected = published.vision_model(given, interpolate_pos_encoding=True).pooler_output
    close(applied(image_tower(config, crop=49), params["image"], pixels, method="pooled"), expected)


@pytest.mark.parametrize("prefix", [0, 2])
def test_text(prefix, published, ours):
    config, params = ours
    tokens = np.asarray([[5, 3, 9, 1, 0, 0, 0], [5, 3, 1, 0, 0, 0, 0], [5, 3, 52, 11, 17, 2, 1]], np.int32)
    with torch.no_grad():
        expected = published.text_model(torch.from_numpy(tokens).long()).pooler_output
    tower = siglip.TextTower(config.text, config.embed_dim)
    given = (jnp.asarray(tokens[:, prefix:]), None, jnp.asarray(tokens[0, :prefix]) if prefix else None)
    close(applied(tower, params["text"], *given), expected)
    shorter = jnp.asarray(tokens[:2, :4])  # the tower fills up the context by itself
    close(applied(tower, params["text"], shorter), expected[:2])


def test_rematerialisation_and_bfloat16(ours):
    config, params = ours
    expected, _ = applied(image_tower(config), params["image"], images(), ())
    again = siglip.ImageTower(config.image, config.embed_dim, remat="all")
    close(applied(again, params["image"], images(), ())[0], expected)
    half = siglip.ImageTower(config.image, config.embed_dim, jnp.bfloat16)
    found, _ = applied(half, params["image"], jnp.asarray(images()), ())
    assert found.dtype == jnp.bfloat16
    close(found.astype(np.float32), expected, 0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "siglip2"}, "model_type 'siglip2'; of SigLIP the models of fixed resolution"),
        ({"vision_config": {"hidden_act": "gelu"}}, "vision_config.hidden_act = 'gelu', layer_norm_eps = 1e-06"),
        ({"text_config": {"num_attention_heads": 4}}, "text_config.num_attention_heads is 4, which does not divide 66"),
    ],
)
def test_what_is_not_computed_is_refused(changes, words, published):
    shapes = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    stated = published.config.to_dict()
    stated = {**stated, **{k: {**stated[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    with pytest.raises(layout.CheckpointError, match=words):
        layout.model_config(shapes, stated, WHERE)


@pytest.mark.slow
def test_real_size():
    """Both towers of B/16 at its 384 pixels, values and gradients; of the vocabulary the first 1000 words."""
    import transformers

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    text = sizes | {"vocab_size": 1000, "max_position_embeddings": 64, "projection_size": 768}
    torch.manual_seed(0)
    settings = transformers.SiglipConfig(vision_config=sizes | {"image_size": 384, "patch_size": 16}, text_config=text)
    model = shaken(transformers.SiglipModel(settings), 0.01)
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    config = layout.model_config(shapes, settings.to_dict(), WHERE)
    preset = architecture.siglip2_vitb16()
    assert config.image == preset.image
    assert config.text == dataclasses.replace(preset.text, vocab_size=1000)
    params = filled(layout.entries(config), tensors)["clip"]
    random = np.random.default_rng(2)
    pixels, tokens = random.standard_normal((1, 384, 384, 3), np.float32), np.zeros((2, 64), np.int32)
    tokens[:, :20], tokens[:, 20] = random.integers(2, 1000, (2, 20)), 1
    found = model.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    dense = model.vision_model.head(found.last_hidden_state.reshape(-1, 1, 768)).reshape(-1, 24, 24, 768)
    words = model.text_model(torch.from_numpy(tokens).long()).pooler_output
    images, texts = image_tower(config), siglip.TextTower(config.text, 768)

    @jax.jit
    def ours(params):
        features = images.apply({"params": params["image"]}, pixels, ())[0]
        pooled = images.apply({"params": params["image"]}, pixels, method="pooled")
        return features, pooled, texts.apply({"params": params["text"]}, jnp.asarray(tokens[:, :21]))

    for one, other in zip(ours(params), (dense, found.pooler_output, words), strict=True):
        close(one, other.detach(), 1e-4)
    (dense.square().sum() + words.square().sum()).backward()
    gradient = jax.jit(jax.grad(lambda params: sum((ours(params)[at] ** 2).sum() for at in (0, 2))))(params)
    for side, tower in (("image", model.vision_model), ("text", model.text_model)):
        first, last = tower.encoder.layers[0], tower.encoder.layers[-1]
        blocks = gradient[side]["blocks"]
        close(blocks["query"]["kernel"][0], first.self_attn.q_proj.weight.grad.T, 1e-3)
        close(blocks["mlp_in"]["kernel"][-1], last.mlp.fc1.weight.grad.T, 1e-3)
    close(
        gradient["image"]["pool_value"]["kernel"], model.vision_model.head.attention.in_proj_weight.grad[-768:].T, 1e-3
    )
