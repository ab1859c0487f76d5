"""What a trained model's components have learnt: HA-HEM's strength of each layer, DC-HSP's complexity of each class.

Axes: l layer, t class.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.models.ahs_seg import mean_text
from ahs_seg_jax.models.dc_hsp import Complexity
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
