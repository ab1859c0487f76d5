"""SigLIP 2 trained on COCO-Stuff with the same aggregation and components: B/16, L/16 and SO400M/14.

`<weights>`: the folder or hub name of google/siglip2-base-patch16-384, -large-patch16-384 or -so400m-patch14-384;
`<tokenizer>`: the file tokenizer.json of the same repository.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/siglip2.py --config.init=<weights> \
        --config.model.text.tokenizer=<tokenizer> --workdir=runs/siglip2
    python -m ahs_seg_jax.main --config=configs/siglip2.py:large --config.init=<weights> \
        --config.model.text.tokenizer=<tokenizer> --workdir=runs/siglip2_large
    python -m ahs_seg_jax.main --config=configs/siglip2.py:smoke --workdir=runs/siglip2_smoke

The recipe is that of `vitb.py` with all components; nobody has published one for these towers. `catseg` trains the
query and value weights without components. Hardware, time and score: not run.
"""

import dataclasses
import pathlib
from typing import Any

import ml_collections

from ahs_seg_jax.config import Experiment, command_line, loading
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ModelConfig

vitb = loading.module(pathlib.Path(__file__).with_name("vitb.py"))


def experiment(name: str, model: ModelConfig) -> Experiment:
    """The full run with all components."""
    base: Experiment = vitb.experiment()
    return dataclasses.replace(base, name=name, model=model.replace(dtype="bfloat16", class_chunk=19, remat="all"))


def smoke(base: Experiment) -> Experiment:
    """A small model with towers of this kind, CLIP's packaged tokenizer, random weights and drawn scenes."""
    small, image, text = architecture.tiny(), base.model.image, base.model.text
    kind: Any = {"tower": "siglip", "activation": image.activation}
    pixels: Any = {"pixel_mean": image.pixel_mean, "pixel_std": image.pixel_std}
    model = small.replace(
        image=dataclasses.replace(small.image, **kind, **pixels),
        text=dataclasses.replace(small.text, tower="siglip", activation=text.activation),
        embed_dim=small.image.width,
    )
    return dataclasses.replace(vitb.smoke(base), model=model)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "" (B/16), "large", "so400m", "catseg" (B/16) and "smoke"."""
    base = experiment("siglip2", architecture.siglip2_vitb16())
    variants = {
        "": base,
        "large": experiment("siglip2_large", architecture.siglip2_vitl16()),
        "so400m": experiment("siglip2_so400m", architecture.siglip2_so400m14()),
        "catseg": vitb.plain(base, "catseg", "none", "attention"),
        "smoke": smoke(base),
    }
    return command_line.select(variant, variants)
