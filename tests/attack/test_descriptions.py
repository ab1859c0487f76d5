"""Configurations beside weights, and the shapes in them, with values of any type: each is read, or refused in words."""

import json

import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import beside, siglip, sizes, stated
from ahs_seg_jax.checkpoints.formats.entry import source_shapes
from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS, entries
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import architecture
from tests.attack import mutations
from tests.checkpoints.conftest import PLAIN, SMALL, VISIBLE

TOWERS = {
    "vision_config": {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3, "hidden_act": "gelu"},
    "text_config": {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "layer_norm_eps": 1e-5},
}
OPEN_CLIP = {
    "vision_cfg": {"layers": 3, "width": 128, "head_width": 64, "mlp_ratio": 4.5, "patch_size": 5},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2, "norm_kwargs": {"eps": 1e-5}, "tokenizer_kwargs": {}},
}
FILES = {
    "config.json": {"model_type": "clip", **TOWERS},
    "preprocessor_config.json": {"image_mean": [0.5] * 3, "do_normalize": True, "image_processor": {"image_std": 0.5}},
    "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"},
    "open_clip_config.json": {"model_cfg": {"quick_gelu": True, **OPEN_CLIP}, "preprocess_cfg": {"mean": [0.5] * 3}},
}
SIGLIP = architecture.siglip2_vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
SIZES = (0, 1, 2, 7, 10**6, 2**40)
NUMBERS = ("9" * 6000, "-1", "x", "999999999", "\u00b2")


def read_or_refused(read) -> bool:
    try:
        read()
    except CheckpointError:
        return False
    return True


def test_configurations_with_values_of_any_type(tmp_path):
    rng, shapes, fine = np.random.default_rng(0), source_shapes(entries("hf_clip", VISIBLE)), 0
    for _ in range(600):
        for name in FILES:
            (tmp_path / name).unlink(missing_ok=True)
        for name in rng.choice(list(FILES), int(rng.integers(1, 5)), replace=False):
            (tmp_path / name).write_text(json.dumps(mutations.change_json(FILES[name], rng)))

        layout, certain = mutations.pick(rng, ["hf_clip", "openai_clip"]), bool(rng.random() < 0.7)

        def read(layout=layout, certain=certain):
            found = beside.read(tmp_path, layout, certain)
            config = sizes.model_config("hf_clip", shapes, "f", found.sizes)
            stated.applied(config, stated.agreed(found.stated, "f")).problems()

        fine += read_or_refused(read)
    assert 60 < fine < 540


@pytest.mark.parametrize("layout", [*LAYOUTS, "siglip"])
def test_tensors_of_any_shape(layout):
    rng, fine = np.random.default_rng(1), 0
    config = {"catseg": PLAIN, "ahs_seg": SMALL, "siglip": SIGLIP}.get(layout, VISIBLE)
    blocks = "vision_model.encoder.layers." if layout in ("hf_clip", "siglip") else "visual.transformer.resblocks."
    about = {"model_type": "siglip", **TOWERS}
    whole = source_shapes(entries(layout, config))
    named = [name for name in whole if "embed" in name or "conv" in name or ".0." in name]  # which show the sizes
    for _ in range(200):
        shapes = dict(whole)
        for _ in range(int(rng.integers(1, 4))):
            name, kind = mutations.pick(rng, named), rng.integers(4)
            shape = shapes.pop(name, (3,))
            if kind == 1:
                shapes[name] = tuple(int(rng.choice(SIZES)) for _ in shape)
            elif kind == 2:
                shapes[name] = shape[:-1]
            elif kind == 3:
                shapes |= {name: shape, f"{blocks}{mutations.pick(rng, NUMBERS)}.ln_1.weight": (3,)}

        stated_here = mutations.change_json(about, rng)

        def read(shapes=shapes, stated_here=stated_here):
            if layout == "siglip":
                siglip.model_config(shapes, stated_here if isinstance(stated_here, dict) else None, "f").problems()
            else:
                sizes.model_config(sizes.recognise(shapes, "f"), shapes, "f", None, VISIBLE).problems()

        fine += read_or_refused(read)
    assert fine
