"""What a trained model's components have learnt: HA-HEM's strength of each layer, DC-HSP's complexity of each class,
MH-FPN's pyramid.

Axes: l layer, t class, h w feature grid, e joint embedding.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.data.open_image import ImageLike, open_image
from ahs_seg_jax.models.ahs_seg import AHSSeg, mean_text
from ahs_seg_jax.models.dc_hsp import Complexity
from ahs_seg_jax.models.mh_fpn import MHFPN, Level
from ahs_seg_jax.pictures import features
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.vocabulary import Vocabulary

TOWERS = ("text", "image")


@dataclasses.dataclass(frozen=True)
class Strengths:
    """HA-HEM of one tower: a layer's rotation R acts as `(1 - alpha beta) I + alpha beta R`."""

    tower: str
    alpha: np.ndarray  # [l], 0..1
    beta: float  # 0..1

    @property
    def title(self) -> str:
        """What a chart writes above the tower's columns."""
        return f"{self.tower} tower, beta {self.beta:.3f}"

    @property
    def applied(self) -> np.ndarray:
        """`alpha * beta`, `[l]`: 0 leaves CLIP's weights as they are, 1 rotates them in full."""
        return self.alpha * self.beta


def missing(pretrained: Pretrained) -> list[str]:
    """A sentence for each component that the model does not have, with the remedy."""
    found = []
    if pretrained.config.adaptation != "ha_hem":
        found.append(
            f"this model has no HA-HEM (model.adaptation is {pretrained.config.adaptation!r}; packaging, and "
            "converting with --merge, fold the rotations in): give the workdir of a training with "
            "model.adaptation=ha_hem"
        )
    if "dc_hsp" not in pretrained.params:
        found.append("this model has no DC-HSP: give the workdir of a training with model.dc_hsp=True")
    return found


def strengths(pretrained: Pretrained) -> list[Strengths]:
    """HA-HEM of both towers of a model that has it."""
    adaptation = pretrained.params["clip"]["adaptation"]
    sigmoid = lambda name: np.asarray(jax.nn.sigmoid(np.asarray(adaptation[name], np.float32)))
    return [Strengths(tower, sigmoid(f"alpha_{tower}"), float(sigmoid(f"beta_{tower}"))) for tower in TOWERS]


def complexities(pretrained: Pretrained, names: tuple[str, ...], templates: tuple[str, ...]) -> np.ndarray:
    """DC-HSP's complexity `[t]`, 0..1, of each name by a model that has it. Raises ValueError for unusable names."""
    vocabulary = Vocabulary(names, templates)
    prompts = Segmenter(pretrained.config, pretrained.params, templates).encode_prompts(vocabulary)
    return np.asarray(
        Complexity().apply({"params": pretrained.params["dc_hsp"]["complexity"]}, mean_text(jnp.asarray(prompts)))
    )


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """MH-FPN of one image: three depths of the image tower on their spheres, from shallow to deep, and their fusion."""

    blocks: tuple[int, ...]  # whose outputs they are, counted from 0
    levels: tuple[np.ndarray, ...]  # float32 [h, w, e]
    fused: np.ndarray  # float32 [h, w, e]
    weights: np.ndarray | None  # [3], their sum is 1; None if the levels are not fused by weights

    def shown(self) -> list[tuple[str, np.ndarray]]:
        """Each as a picture with a title: alike colours are alike features, within one picture."""
        shares = (
            [""] * len(self.blocks) if self.weights is None else [f", weight {share:.3f}" for share in self.weights]
        )
        titles = [f"block {block}{share}" for block, share in zip(self.blocks, shares, strict=True)]
        pictures = [features.as_colors(level) for level in (*self.levels, self.fused)]
        return list(zip([*titles, "fused"], pictures, strict=True))


def pyramid(pretrained: Pretrained, image: ImageLike) -> Pyramid:
    """MH-FPN of an image by a model that has it, as one view. Raises ValueError for an image that cannot be used."""
    model = AHSSeg(pretrained.config)

    def run(params: Any, images: jax.Array) -> Any:
        return model.apply(
            {"params": params},
            images,
            method="encode_image",
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Level | MHFPN),
        )

    _, state = jax.jit(run)(pretrained.params, jnp.asarray(open_image(image), jnp.float32)[None])
    found = state["intermediates"]["mh_fpn"]
    fused, out = found["__call__"][0]
    levels = [found[f"level_{number}"]["__call__"][0] for number in range(len(pretrained.config.mh_fpn_taps))]
    weights = None if "weights" not in out else np.asarray(out["weights"], np.float32).reshape(-1)
    plain = [np.asarray(value[0], np.float32) for value in (*levels, fused)]
    return Pyramid(tuple(pretrained.config.mh_fpn_taps), tuple(plain[:-1]), plain[-1], weights)
