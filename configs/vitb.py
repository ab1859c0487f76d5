"""ViT-B/16 trained on COCO-Stuff from CLIP's weights: the published recipes.

`<weights>`: openai/clip-vit-base-patch16 (downloaded), or a file or directory of any layout that can be converted.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/vitb.py --config.init=<weights> --workdir=runs/vitb
    python -m ahs_seg_jax.main --config=configs/vitb.py:catseg --config.init=<weights> --workdir=runs/vitb_catseg
    python -m ahs_seg_jax.main --config=configs/vitb.py:smoke --workdir=runs/vitb_smoke

Without a variant all three components learn, and with them the rotations and the image tower's attention biases
(AHS-Seg's EnhancedCATSeg). `orthogonal` trains the rotations alone (AHS-Seg's CATSeg), `catseg` the query and value
weights (CAT-Seg). Hardware, time and score: not run. `smoke` follows the first recipe with a small model, random
weights and drawn scenes, without any file, in about a minute: most of it compiling.
"""

import dataclasses
import os
from typing import Any

import ml_collections

from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, LossConfig, TrainConfig, command_line, training
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.towers import registry


def experiment() -> Experiment:
    """The full run with all components."""
    return Experiment(
        name="vitb",
        model=architecture.vitb16().replace(dtype="bfloat16", class_chunk=19, remat="all"),
        data=DataConfig(name="coco_stuff", root=os.environ.get("AHS_SEG_DATA", ""), num_threads=8, prefetch=8),
        train=TrainConfig(
            steps=80_000,
            batch_size=16,
            finetune="orthogonal_biases",
            learning_rate=2e-4,
            clip_multiplier=0.01,
            weight_decay=1e-4,
            clip_norm=1.0,
        ),
        losses=LossConfig(class_chunk=19),  # 171 classes in nine passes: memory for one pass at a time
        eval=EvalConfig(protocol="cat_seg"),
    )


def plain(base: Experiment, name: str, adaptation: str, finetune: str) -> Experiment:
    """A published recipe without components, on the model of `base`."""
    train = dataclasses.replace(
        base.train, batch_size=4, finetune=finetune, learning_rate=2e-4, clip_multiplier=0.01, clip_norm=0.01
    )
    model = base.model.replace(adaptation=adaptation, mh_fpn=False, dc_hsp=False)
    return dataclasses.replace(base, name=f"{base.name}_{name}", model=model, train=train)


def smoke(base: Experiment) -> Experiment:
    """The same recipe with a small model of the same kind of towers, random weights and drawn scenes, in a few steps.

    Words are read by CLIP's packaged tokenizer.
    """
    small, image, text = architecture.tiny(), base.model.image, base.model.text
    of_image: Any = {name: getattr(image, name) for name in ("tower", "activation", "pixel_mean", "pixel_std")}
    of_text: Any = {name: getattr(text, name) for name in ("tower", "activation")}
    as_wide = registry.IMAGE_TOWERS[image.tower].embeds_width
    model = small.replace(
        image=dataclasses.replace(small.image, **of_image),
        text=dataclasses.replace(small.text, **of_text),
        embed_dim=small.image.width if as_wide else small.embed_dim,
    )
    stand_in = dataclasses.replace(base, init=training.RANDOM_INIT, model=model, data=DataConfig(name="scenes"))
    return command_line.smoke(stand_in)


def variants(base: Experiment) -> dict[str, Experiment]:
    """The recipes by name."""
    return {
        "": base,
        "orthogonal": plain(base, "orthogonal", "orthogonal", "orthogonal"),
        "catseg": plain(base, "catseg", "none", "attention"),
        "smoke": smoke(base),
    }


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    return command_line.select(variant, variants(experiment()))
