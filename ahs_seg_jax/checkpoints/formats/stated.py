"""What a CLIP's tensors do not show, and who states it: activation, statistics of the pixels, epsilon, tokenizer.

A CLIP that was trained with GELU has the names and shapes of one that was trained with QuickGELU. So somebody must
say it: the user, the model zoo, a configuration beside the file, or the kind of the file. All that say something must
agree.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.layers import EPSILON
from ahs_seg_jax.models.towers.config import ACTIVATIONS, ImageTowerConfig

Pixel = tuple[float, float, float]

OPENAI_MEAN: Pixel = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1; ImageTowerConfig has them in 0..255
OPENAI_STD: Pixel = (0.26862954, 0.26130258, 0.27577711)
CLIP_ACTIVATIONS = ("quick_gelu", "gelu")
CLIP_TOKENIZER = "clip"  # the byte pairs of `vocabulary.tokenizer`
ASSUMED = "nobody: assumed as OpenAI's"
_TOLERANCE = 1e-6  # relative; published configurations are rounded differently


@dataclasses.dataclass(frozen=True)
class Stated:
    """What one source states of a CLIP; None where it states nothing.

    `activation` is "quick_gelu" or "gelu" (exact), of both towers, or of the text tower beside a gated image tower;
    `pixel_mean` and `pixel_std` are of RGB in 0..1, as other programs write them; `eps` is that of layer norms;
    `tokenizer` is "clip" or another one's name. `stated_by` ends the sentence "... is stated by". What `yields` is the
    default of a program whose configuration says nothing: any other statement counts in its place.
    """

    activation: str | None = None
    pixel_mean: Pixel | None = None
    pixel_std: Pixel | None = None
    eps: float | None = None
    tokenizer: str | None = None
    stated_by: str = "the caller"
    yields: bool = False


class Fact(NamedTuple):
    """A value, and who states it."""

    value: Any
    by: str


Facts = Mapping[str, Fact]
FIELDS = tuple(field.name for field in dataclasses.fields(Stated) if field.name not in ("stated_by", "yields"))
OPENAI = Stated("quick_gelu", OPENAI_MEAN, OPENAI_STD, EPSILON, CLIP_TOKENIZER)  # and CAT-Seg and AHS-Seg, made of it


def by_the_user(activation: str | None) -> Stated | None:
    """What the option `activation` states; None without it. Raises ValueError for an activation that is not known."""
    if activation is None:
        return None
    if activation not in CLIP_ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(CLIP_ACTIVATIONS)}")
    return Stated(activation, stated_by="the option activation")


def agreed(statements: Iterable[Stated | None], where: str) -> dict[str, Fact]:
    """Field -> value and who states it first, of what any of the sources states.

    Raises:
      CheckpointError: two sources contradict each other (both are named), or it is a CLIP that is not computed here.
    """
    facts: dict[str, Fact] = {}
    for stated in sorted((given for given in statements if given is not None), key=lambda given: given.yields):
        for field in FIELDS:
            value = getattr(stated, field)
            if value is None:
                continue
            new, old = Fact(value, stated.stated_by), facts.setdefault(field, Fact(value, stated.stated_by))
            if not stated.yields and not _equal(old.value, new.value):
                raise CheckpointError(
                    f"{where}: {field} is {old.value!r} by {old.by}, but {new.value!r} by {new.by}; one is wrong"
                )
    _check(facts, where)
    return facts


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(one, other, strict=True))
    return one == other


def _check(facts: Facts, where: str) -> None:
    """Raises CheckpointError for what is not computed here."""
    known: dict[str, tuple[Any, ...]] = {"activation": ACTIVATIONS, "eps": (EPSILON,), "tokenizer": (CLIP_TOKENIZER,)}
    for field, valid in known.items():
        if field in facts and facts[field].value not in valid:
            fact = facts[field]
            raise CheckpointError(
                f"{where} cannot be used: its {field} is {fact.value!r} by {fact.by}, and this program has "
                f"{', '.join(map(repr, valid))} only"
            )


def applied(config: ModelConfig, facts: Facts) -> ModelConfig:
    """The configuration with the stated activation and pixel statistics; what is not stated stays as it is."""
    if "activation" in facts:
        config = config.with_activation(facts["activation"].value)
    image = config.image
    for field in ("pixel_mean", "pixel_std"):
        if field in facts:
            change: dict[str, Any] = {field: in_pixels(field, facts[field].value)}
            image = dataclasses.replace(image, **change)
    return config.replace(image=image)


def with_assumed_pixels(facts: Facts) -> dict[str, Fact]:
    """The facts, with OpenAI's pixel statistics where nobody states any: so does the configuration's default."""
    assumed = {"pixel_mean": OPENAI_MEAN, "pixel_std": OPENAI_STD}
    return {field: Fact(value, ASSUMED) for field, value in assumed.items()} | dict(facts)


def in_pixels(field: str, values: Pixel) -> Pixel:
    """A mean or spread of RGB in 0..1 as one in 0..255; OpenAI's are exactly those of ImageTowerConfig."""
    usual: Pixel = getattr(ImageTowerConfig(), field)
    scaled = (255 * values[0], 255 * values[1], 255 * values[2])
    return usual if _equal(usual, scaled) else scaled


def of_config(config: ModelConfig, by: str) -> Stated:
    """What a configuration of ours states. Towers with different activations leave that out: nothing may add to it."""
    image, text = config.image, config.text
    mean, std = ((r / 255, g / 255, b / 255) for r, g, b in (image.pixel_mean, image.pixel_std))
    activation = text.activation if config.with_activation(text.activation) == config else None
    if (image.tower, text.tower) != ("clip", "clip"):
        return Stated(activation, mean, std, stated_by=by)
    return Stated(activation, mean, std, EPSILON, CLIP_TOKENIZER, by)


def described(facts: Facts) -> dict[str, dict[str, Any]]:
    """The facts as a manifest has them: `{"activation": {"value": "gelu", "by": "the option activation"}, ...}`."""
    return {field: {"value": fact.value, "by": fact.by} for field, fact in facts.items()}
