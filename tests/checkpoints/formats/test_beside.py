"""Configurations beside the weights: what they state, and other models refused in one sentence."""

import json

import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints.formats import beside, convert, writers
from ahs_seg_jax.checkpoints.formats.stated import OPENAI_MEAN, Stated, agreed
from ahs_seg_jax.checkpoints.pretrained import convert_checkpoint, load_pretrained
from ahs_seg_jax.errors import CheckpointError

HALF = [0.5, 0.5, 0.5]
VISION = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}


def open_clip(model=(), vision=(), text=(), **more):
    model = {
        "embed_dim": 512,
        "vision_cfg": {**VISION, **dict(vision)},
        "text_cfg": {**TEXT, **dict(text)},
        **dict(model),
    }
    return {"model_cfg": model, **more}


def write(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def facts(folder, layout="hf_clip", certain=True):
    return {name: fact.value for name, fact in agreed(beside.read(folder, layout, certain).stated, "f").items()}


def test_transformers_configurations(tmp_path):
    write(tmp_path, config={"model_type": "clip"})
    found = beside.read(tmp_path)
    assert facts(tmp_path) == {"activation": "quick_gelu", "eps": 1e-5}  # transformers' defaults
    assert found.sizes == {"image": {"layers": 12, "heads": 12}, "text": {"layers": 12, "heads": 8}}
    tower = {"hidden_act": "gelu", "num_attention_heads": 3, "hidden_size": 96}
    write(
        tmp_path,
        config={"model_type": "clip", "vision_config": tower, "text_config": tower},
        preprocessor_config={"image_mean": HALF, "image_std": HALF},
        tokenizer_config={"tokenizer_class": "CLIPTokenizer"},
    )
    assert facts(tmp_path)["activation"] == "gelu"
    assert facts(tmp_path)["pixel_std"] == (0.5, 0.5, 0.5)
    assert facts(tmp_path)["tokenizer"] == "clip"
    assert beside.read(tmp_path).sizes["text"] == {"layers": 12, "heads": 3, "width": 96}


def test_open_clips_configurations(tmp_path):
    write(tmp_path, open_clip_config=open_clip(preprocess_cfg={"mean": HALF, "std": HALF, "interpolation": "bicubic"}))
    found = facts(tmp_path, "openai_clip")
    assert found["activation"] == "gelu"
    assert found["pixel_mean"] == (0.5, 0.5, 0.5)
    assert beside.read(tmp_path).sizes == {
        "image": {"layers": 12, "heads": 12, "width": 768},
        "text": {"layers": 12, "heads": 8, "width": 512},
    }
    write(tmp_path, open_clip_config=open_clip(vision={"width": 1408, "head_width": 88, "mlp_ratio": 4.3637}))  # ViT-g
    assert beside.read(tmp_path).sizes["image"]["heads"] == 16
    write(tmp_path, open_clip_config=open_clip({"quick_gelu": True}, {"width": 1280, "head_width": 80}))
    assert facts(tmp_path)["activation"] == "quick_gelu"
    assert facts(tmp_path)["pixel_mean"] == OPENAI_MEAN
    assert beside.read(tmp_path).sizes["image"]["heads"] == 16


def test_each_layout_has_its_own_configuration_and_the_other_fills_in(tmp_path):
    write(
        tmp_path, config={"model_type": "clip"}, open_clip_config=open_clip(preprocess_cfg={"mean": HALF, "std": HALF})
    )
    assert facts(tmp_path, "openai_clip")["activation"] == "gelu"
    assert facts(tmp_path, "hf_clip")["activation"] == "quick_gelu"
    assert facts(tmp_path, "hf_clip")["pixel_mean"] == (0.5, 0.5, 0.5)


def test_configurations_of_strangers_say_nothing_of_a_file_that_may_not_be_theirs(tmp_path):
    write(tmp_path, config={"model_type": "llama"})
    assert beside.read(tmp_path, certain=False) == beside.Beside()
    write(tmp_path, config={"architecture": "vit_base_patch16_clip_224"})  # timm's
    assert beside.read(tmp_path) == beside.Beside()


def hf(**changes):
    return {"config": {"model_type": "clip", **changes}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (hf(model_type="siglip2"), "holds a model of the kind 'siglip2' by its config.json"),
        (
            hf(model_type="metaclip_2", text_config={"eos_token_id": 1}),
            "holds a MetaCLIP 2 whose texts end with the token 1, not with XLM-V's 2, by its config.json",
        ),
        (hf(vision_config={"hidden_act": "gelu"}), r"two towers with different hidden_act \('gelu' and 'quick_gelu'\)"),
        (
            hf(vision_config={"hidden_act": "relu"}, text_config={"hidden_act": "relu"}),
            "its activation is 'relu' by config.json, and this program has 'quick_gelu', 'gelu'",
        ),
        (
            hf(vision_config={"layer_norm_eps": 1e-6}, text_config={"layer_norm_eps": 1e-6}),
            "its eps is 1e-06 by config.json",
        ),
        (
            hf() | {"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}},
            "its tokenizer is 'XLMRobertaTokenizer' by tokenizer_config.json",
        ),
        (hf() | {"preprocessor_config": {"image_mean": [0.5, "x", 1]}}, "image_mean in preprocessor_config.json is"),
        (hf() | {"preprocessor_config": {"image_std": [0.5, 0, 1]}}, "image_std in preprocessor_config.json is"),
        ({"open_clip_config": open_clip(vision={"layers": [3, 4, 6, 3]})}, "holds a ResNet by its open_clip_config"),
        ({"open_clip_config": open_clip(vision={"timm_model_name": "eva02_b"})}, "the image tower eva02_b of timm"),
        ({"open_clip_config": open_clip(text={"hf_model_name": "xlm-roberta"})}, "holds the text tower xlm-roberta"),
        ({"open_clip_config": open_clip({"init_logit_bias": -10})}, "a model with init_logit_bias = -10"),
        ({"open_clip_config": open_clip(vision={"no_ln_pre": True})}, "a model with no_ln_pre = True"),
        ({"open_clip_config": open_clip(text={"norm_kwargs": {"eps": 1e-6}})}, "eps is"),
        ({"open_clip_config": open_clip(text={"hf_tokenizer_name": "bert"})}, "its tokenizer is 'bert' by open_clip_c"),
        (
            {"open_clip_config": open_clip(text={"tokenizer_kwargs": {"clean": "canonicalize"}})},
            "its tokenizer is .clip with .*canonicalize",
        ),
        (hf(vision_config={"hidden_act": {}}), r"two towers with different hidden_act \('quick_gelu' and '{}'\)"),
        (hf(vision_config={"layer_norm_eps": "x"}), r"two towers with different layer_norm_eps \('x' and 1e-05\)"),
        ({"open_clip_config": open_clip(text={"norm_kwargs": {"eps": [1]}})}, "eps is"),
        ({"open_clip_config": open_clip(text={"heads": "many"})}, "heads in open_clip_config.json is 'many'"),
    ],
)
def test_other_models_take_one_sentence(files, message, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(CheckpointError, match=message) as caught:
        facts(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 250


@pytest.fixture
def tensors(visible, random_params):
    params = random_params("openai_clip", visible)
    return params, {names[0]: value for names, value in convert.state_dict("openai_clip", visible, params)}


def test_a_bare_clip_must_be_stated(tensors, visible, assert_same, tmp_path):
    safetensors.numpy.save_file(tensors[1], tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"does not say .*--activation quick_gelu or gelu .*config\.activation"):
        load_pretrained(tmp_path / "clip.safetensors")
    found = load_pretrained(tmp_path / "clip.safetensors", activation="gelu")
    assert (found.config.image.activation, found.config.text.activation) == ("gelu", "gelu")
    written = convert_checkpoint(tmp_path / "clip.safetensors", tmp_path / "out", activation="gelu")
    assert written["source"]["stated"] == {
        "activation": {"value": "gelu", "by": "the option activation"},
        "pixel_mean": {"value": OPENAI_MEAN, "by": "nobody: assumed as OpenAI's"},
        "pixel_std": {"value": (0.26862954, 0.26130258, 0.27577711), "by": "nobody: assumed as OpenAI's"},
    }
    again = load_pretrained(tmp_path / "out")
    assert again.config == found.config
    assert_same(again.params, found.params)
    with pytest.raises(CheckpointError, match="'quick_gelu' by the model zoo, but 'gelu' by its own configuration"):
        load_pretrained(tmp_path / "out", stated=Stated("quick_gelu", stated_by="the model zoo"))


def test_an_open_clip_folder_states_everything(tensors, visible, tmp_path):
    cfg = {"layers": 3, "width": 128, "patch_size": 5, "image_size": 35}
    text = {"layers": 2, "width": 64, "heads": 1, "vocab_size": 97, "context_length": 13}
    write(tmp_path, open_clip_config=open_clip(vision=cfg, text=text, preprocess_cfg={"mean": HALF, "std": HALF}))
    safetensors.numpy.save_file(tensors[1], tmp_path / "open_clip_model.safetensors")
    for source in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        found = load_pretrained(source)
        assert found.config.image.pixel_mean == (127.5, 127.5, 127.5)
        assert found.config.image.activation == found.config.text.activation == "gelu"
    found = load_pretrained(tmp_path, activation="quick_gelu")  # only open_clip's default stands against it
    assert found.config.text.activation == "quick_gelu"
    said = open_clip({"quick_gelu": False}, vision=cfg, text=text)
    write(tmp_path, open_clip_config=said)
    with pytest.raises(CheckpointError, match="'quick_gelu' by the option activation, but 'gelu' by open_clip_config"):
        load_pretrained(tmp_path, activation="quick_gelu")


def test_what_is_written_for_transformers_states_its_pixels(visible, tensors, tmp_path):
    import dataclasses

    image = dataclasses.replace(visible.image, activation="gelu", pixel_mean=(1.0, 2.0, 3.0))
    config = visible.replace(image=image, text=dataclasses.replace(visible.text, activation="gelu"))
    folder = writers.write(tmp_path / "hf", "hf_clip", config, tensors[0])
    data = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(data, folder / "model.safetensors")  # without our own configuration
    found = load_pretrained(folder).config
    np.testing.assert_allclose(found.image.pixel_mean, (1.0, 2.0, 3.0), rtol=1e-12)
    assert found.image.activation == "gelu"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models_are_taken_off(prefix, tensors, assert_same, tmp_path):
    named = {f"{prefix}{name}": value for name, value in tensors[1].items()}
    safetensors.numpy.save_file(named, tmp_path / "ddp.safetensors")
    assert_same(load_pretrained(tmp_path / "ddp.safetensors", activation="quick_gelu").params, tensors[0])


def test_shards_of_torch_files(tensors, assert_same, tmp_path):
    torch = pytest.importorskip("torch")
    names, weight_map = sorted(tensors[1]), {}
    for shard, part in enumerate((names[:30], names[30:])):
        file = f"pytorch_model-{shard}.bin"
        torch.save({name: torch.from_numpy(tensors[1][name]) for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    write(tmp_path, **{"pytorch_model.bin.index": {"weight_map": weight_map}})
    assert_same(load_pretrained(tmp_path, activation="quick_gelu").params, tensors[0])
    torch.save({names[0]: torch.zeros(1)}, tmp_path / "pytorch_model-1.bin")
    with pytest.raises(CheckpointError, match="is in several of its shards"):
        load_pretrained(tmp_path, activation="quick_gelu")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_training_checkpoint_of_detectron2s_kind(dtype, visible, random_params, tmp_path):
    torch = pytest.importorskip("torch")
    params = random_params("catseg", visible)
    state = {names[0]: torch.from_numpy(value) for names, value in convert.state_dict("catseg", visible, params)}
    learning = [torch.nn.Parameter(value.clone()) for value in list(state.values())[:3]]
    optimizer = torch.optim.AdamW(learning)
    sum(p.sum() for p in learning).backward()
    optimizer.step()
    state = {name: value.to(getattr(torch, dtype)) for name, value in state.items()}
    content = {"model": state, "optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}, "iteration": 4}
    torch.save(content, tmp_path / "model_final.pth")
    found = load_pretrained(tmp_path / "model_final.pth")
    assert found.config == visible
    assert found.manifest["source"]["stated"]["activation"]["by"] == "its layout, catseg"
    expected = state["sem_seg_head.predictor.transformer.head.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found.params["aggregator"]["head"]["kernel"], expected)


def test_a_hugging_face_bin_with_position_ids(visible, random_params, assert_same, tmp_path):
    torch = pytest.importorskip("torch")
    params = random_params("hf_clip", visible)
    state = {names[0]: torch.from_numpy(value) for names, value in convert.state_dict("hf_clip", visible, params)}
    state["text_model.embeddings.position_ids"] = torch.arange(13).expand((1, -1))
    state["vision_model.embeddings.position_ids"] = torch.arange(50).expand((1, -1))
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    write(tmp_path, config=writers.hf_config(visible))
    found = load_pretrained(tmp_path)
    assert_same(found.params, params)
    assert found.config == visible
