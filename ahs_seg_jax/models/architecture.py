"""Sizes and switches of the model: the dataclasses that every model file reads, and the named presets.

Source: method.md's table of sizes; CLIP ViT-B/16 and ViT-L/14@336; CAT-Seg's aggregator.
"""

import dataclasses
from typing import Any

from ahs_seg_jax.models import fields
from ahs_seg_jax.models.towers.config import ACTIVATIONS, ImageTowerConfig, TextTowerConfig

ADAPTATIONS = ("none", "orthogonal", "ha_hem")
FUSIONS = ("weighted", "attention", "concat")
INITS = ("torch", "scratch")
MOST_LAYERS, MOST_SIZE = 1000, 2**20  # of any part: beyond them a mistake would take minutes to be noticed
DTYPES = ("float32", "bfloat16")
WINDOW_ATTENTION = ("products", "xla", "cudnn")  # ops.windows
REMAT = ("none", "cheap", "all")  # cheap: all but convolutions and long products (ops.remat)


@dataclasses.dataclass(frozen=True)
class AggregatorConfig:
    """Cost aggregation and decoder (CAT-Seg)."""

    hidden: int = 128  # channels of a class's correlation embedding
    layers: int = 2  # pairs of a spatial and a class layer
    heads: int = 4
    window: int = 12  # side of a Swin window, in grid tokens
    mlp_ratio: int = 4
    prompts: int = 1  # templates whose correlations enter the embedding
    appearance_guidance: int = 128
    text_guidance: int = 128
    decoder: tuple[int, int] = (64, 32)  # output channels of the two decoder stages
    decoder_guidance: tuple[int, int] = (32, 16)  # guidance channels joined at each stage
    guidance_up: tuple[int, int] = (256, 128)  # channels of the upsampled tower taps
    pad_len: int = 256  # classes kept per image, and the length short vocabularies are padded to; 0 = off


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The whole model. The defaults are ViT-B/16 with all three components."""

    image: ImageTowerConfig = dataclasses.field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = dataclasses.field(default_factory=TextTowerConfig)
    embed_dim: int = 512  # CLIP's joint embedding, e
    adaptation: str = "ha_hem"  # none | orthogonal | ha_hem
    block_size: int = 128  # side of a rotation block
    alpha: float = 0.3  # HA-HEM: initial strength of every layer
    beta_text: float = 0.7  # HA-HEM: initial strength of the text tower
    beta_image: float = 0.99  # HA-HEM: initial strength of the image tower (a saturated sigmoid cannot learn)
    guidance_taps: tuple[int, int] = (3, 7)  # 0-based image blocks whose outputs guide the decoder
    mh_fpn: bool = True
    mh_fpn_taps: tuple[int, int, int] = (3, 7, 11)  # the last must be the tower's last (dense) block
    mh_fpn_fusion: str = "weighted"  # weighted | attention | concat
    dc_hsp: bool = True
    dc_hsp_rank: int = 64
    aggregator: AggregatorConfig = AggregatorConfig()
    init: str = "torch"  # values of fresh parameters: torch (PyTorch's defaults) | scratch (to train all from nothing)
    dtype: str = "float32"  # activations: float32 (parity) | bfloat16
    class_chunk: int = 0  # classes per pass of the spatial layers and the decoder; 0 = all at once (same results)
    remat: str = "none"  # computed again in the backward pass of tower blocks and class chunks: none | cheap | all
    # What attends in the aggregator's windows (same results): products | xla | cudnn. The last is a fused kernel for
    # NVIDIA's GPUs, in bfloat16 alone; nobody has measured it yet, so that it has to be asked for.
    window_attention: str = "products"

    @property
    def grid(self) -> int:
        """Side h = w of the feature grid, in tokens."""
        return self.image.grid

    @property
    def text_blocks(self) -> int:
        """Rotation blocks of the text tower, d_text / B."""
        return self.text.width // self.block_size

    @property
    def image_blocks(self) -> int:
        """Rotation blocks of the image tower, d_image / B."""
        return self.image.width // self.block_size

    def check_class_pooling(self, class_pooling: int) -> None:
        """Raises ValueError unless squares of `class_pooling` positions divide the feature grid."""
        if class_pooling < 1 or self.grid % class_pooling:
            raise ValueError(
                f"class_pooling is {class_pooling}, which does not divide the feature grid of {self.grid} tokens"
            )

    def replace(self, **changes: Any) -> "ModelConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_activation(self, activation: str) -> "ModelConfig":
        """A copy whose towers have this activation; gates of an image tower keep theirs."""
        from ahs_seg_jax.models.towers import registry  # only here: it brings JAX, which a configuration can do without

        known = registry.IMAGE_TOWERS.get(self.image.tower)
        image = self.image if known and known.gated else dataclasses.replace(self.image, activation=activation)
        return self.replace(image=image, text=dataclasses.replace(self.text, activation=activation))

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one sentence each: field, value seen, what would be valid."""
        return self._impossible_numbers() or [
            *self.tower_problems(),
            *self._aggregator_problems(),
            *self._grid_problems(),
            *self._tap_problems(),
        ]

    def tower_problems(self) -> list[str]:
        """As `problems`, of the towers alone: a CLIP has nothing else."""
        return self._impossible_numbers() or [*self._choice_problems(), *self._tower_problems()]

    def _impossible_numbers(self) -> list[str]:
        """Numbers and sizes that no model has; what else contradicts them cannot be computed."""
        found = fields.number_problems(fields.flatten(self, "model."), negative=("model.image.pixel_mean",))
        groups = {f"model.{name}.": getattr(self, name) for name in ("image", "text", "aggregator")}
        sizes = {prefix + name: value for prefix, group in groups.items() for name, value in vars(group).items()}
        sizes |= {f"model.{name}": getattr(self, name) for name in ("embed_dim", "block_size", "dc_hsp_rank")}
        least = {"model.aggregator.pad_len": 0, "model.image.mlp_width": 0, "model.text.mlp_width": 0}
        return found + [
            f"{name} is {value}; it must be at least {low} and at most {high}"
            for name, value in sizes.items()
            for low, high in [(least.get(name, 1), MOST_LAYERS if name.endswith(".layers") else MOST_SIZE)]
            for size in (value if isinstance(value, tuple) else (value,))
            if isinstance(size, int) and not low <= size <= high
        ]

    def _choice_problems(self) -> list[str]:
        found = []
        choices = (
            ("adaptation", ADAPTATIONS),
            ("mh_fpn_fusion", FUSIONS),
            ("dtype", DTYPES),
            ("remat", REMAT),
            ("window_attention", WINDOW_ATTENTION),
            ("init", INITS),
        )
        for field, valid in choices:
            if getattr(self, field) not in valid:
                found.append(f"model.{field} is {getattr(self, field)!r}; choose one of {', '.join(valid)}")
        for field in ("alpha", "beta_text", "beta_image"):
            if not 0.0 < getattr(self, field) < 1.0:
                found.append(f"model.{field} is {getattr(self, field)}; it must lie strictly between 0 and 1")
        return found

    def _tower_problems(self) -> list[str]:
        from ahs_seg_jax.models.towers import registry  # only here: it brings JAX, which a configuration can do without

        found = []
        if min(self.image.pixel_std) <= 0:
            found.append(f"model.image.pixel_std is {self.image.pixel_std}; it must be positive")
        for name, tower in (("image", self.image), ("text", self.text)):
            for field, valid in (("tower", tuple(registry.TOWERS[name])), ("activation", ACTIVATIONS)):
                if (value := getattr(tower, field)) not in valid:
                    found.append(f"model.{name}.{field} is {value!r}; choose one of {', '.join(valid)}")
            known = registry.TOWERS[name].get(tower.tower)
            if known and not known.rotated and self.adaptation != "none":
                found.append(
                    f"model.{name}.tower is {tower.tower!r}, which cannot be rotated; set model.adaptation to none"
                )
            if known and known.embeds_width and tower.width != self.embed_dim:
                found.append(
                    f"model.embed_dim is {self.embed_dim}; with model.{name}.tower = {tower.tower!r} it must be "
                    f"model.{name}.width = {tower.width}"
                )
            if tower.width % tower.heads:
                found.append(
                    f"model.{name}.width is {tower.width}, not a multiple of model.{name}.heads = {tower.heads}"
                )
            elif known and tower.width // tower.heads % known.head_multiple:
                found.append(
                    f"model.{name}.width = {tower.width} and model.{name}.heads = {tower.heads} give heads of "
                    f"{tower.width // tower.heads} channels; with model.{name}.tower = {tower.tower!r} their number "
                    f"must be a multiple of {known.head_multiple}"
                )
            if self.adaptation != "none" and tower.width % self.block_size:
                found.append(
                    f"model.{name}.width is {tower.width}, not a multiple of model.block_size = {self.block_size}; "
                    "rotations need whole blocks"
                )
        if self.mh_fpn and self.embed_dim % 16:
            found.append(f"model.embed_dim is {self.embed_dim}; with mh_fpn it must be a multiple of 16")
        return found

    def _aggregator_problems(self) -> list[str]:
        found = []
        c = self.aggregator
        if c.hidden % c.heads:
            found.append(f"model.aggregator.hidden is {c.hidden}, not a multiple of model.aggregator.heads = {c.heads}")
        inputs = (("hidden", c.hidden), ("decoder[0]", c.decoder[0]))
        for stage, ((field, channels), guidance) in enumerate(zip(inputs, c.decoder_guidance, strict=True)):
            if channels <= guidance:
                found.append(
                    f"model.aggregator.{field} is {channels}; it must exceed "
                    f"model.aggregator.decoder_guidance[{stage}] = {guidance}, "
                    "which leaves the rest to the upsampled features"
                )
        for stage, channels in enumerate(c.decoder):
            if channels % 16:
                found.append(
                    f"model.aggregator.decoder[{stage}] is {channels}; it must be a multiple of 16 "
                    "(GroupNorm has channels/16 groups)"
                )
        return found

    def _grid_problems(self) -> list[str]:
        crop, patch, window = self.image.crop, self.image.patch_size, self.aggregator.window
        if crop % patch:
            return [
                (
                    f"model.image.crop is {crop}, not a multiple of model.image.patch_size = {patch}; "
                    f"the nearest valid crops are {crop // patch * patch} and {(crop // patch + 1) * patch}"
                )
            ]
        if self.grid > window and self.grid % window:
            return [
                (
                    f"model.image.crop = {crop} gives a grid of {self.grid} tokens, "
                    f"not a multiple of model.aggregator.window = {window}"
                )
            ]
        return []

    def _tap_problems(self) -> list[str]:
        found = []
        layers = self.image.layers
        taps: list[tuple[str, tuple[int, ...]]] = [("guidance_taps", self.guidance_taps)]
        if self.mh_fpn:
            taps.append(("mh_fpn_taps", self.mh_fpn_taps))
            if self.mh_fpn_taps[-1] != layers - 1:
                found.append(
                    f"model.mh_fpn_taps is {self.mh_fpn_taps}; "
                    f"its last level must be the last image block, {layers - 1}"
                )
        for field, values in taps:
            if any(not 0 <= tap < layers for tap in values) or list(values) != sorted(set(values)):
                found.append(
                    f"model.{field} is {values}; taps must ascend without repeats within 0..{layers - 1} "
                    "(model.image.layers)"
                )
        return found


def vitb16() -> ModelConfig:
    """ViT-B/16 at 384 pixels, the published base size; fresh parameters are PyTorch's."""
    return ModelConfig()


def vitl14_336() -> ModelConfig:
    """ViT-L/14 at 336 pixels, the published large size; fresh parameters are PyTorch's."""
    return ModelConfig(
        image=ImageTowerConfig(layers=24, width=1024, heads=16, patch_size=14, crop=336, pretrained_grid=24),
        text=TextTowerConfig(layers=12, width=768, heads=12),
        embed_dim=768,
        guidance_taps=(7, 15),
        mh_fpn_taps=(7, 15, 23),
    )


def tiny() -> ModelConfig:
    """Small enough to train from scratch on two CPU cores in minutes; every component included."""
    return ModelConfig(
        image=ImageTowerConfig(layers=4, width=128, heads=4, patch_size=8, crop=64, pretrained_grid=8),
        text=TextTowerConfig(layers=2, width=64, heads=4, context=32),
        embed_dim=64,
        init="scratch",
        block_size=16,
        guidance_taps=(0, 1),
        mh_fpn_taps=(0, 1, 3),
        dc_hsp_rank=16,
        aggregator=AggregatorConfig(
            hidden=16,
            layers=1,
            heads=2,
            window=8,
            mlp_ratio=2,
            appearance_guidance=32,
            text_guidance=32,
            decoder=(16, 16),
            decoder_guidance=(8, 8),
            guidance_up=(32, 16),
            pad_len=0,
        ),
    )


def _siglip2(
    layers: int, width: int, heads: int, patch_size: int, grid: int, mlp_width: int = 0, window: int = 12
) -> ModelConfig:
    """Both towers of SigLIP 2 have the same sizes. Pixels go from -1 to 1."""
    shared: Any = {"tower": "siglip", "width": width, "heads": heads, "mlp_width": mlp_width, "activation": "gelu_tanh"}
    pixels: Any = {"pixel_mean": (127.5, 127.5, 127.5), "pixel_std": (127.5, 127.5, 127.5)}
    crop: Any = {"patch_size": patch_size, "crop": grid * patch_size, "pretrained_grid": grid}
    words: Any = {"vocab_size": 256_000, "context": 64, "tokenizer": "tokenizer.json"}
    taps = layers // 3 - 1, 2 * layers // 3 - 1
    return ModelConfig(
        image=ImageTowerConfig(layers=layers, **shared, **pixels, **crop),
        text=TextTowerConfig(layers=layers, **shared, **words),
        embed_dim=width,
        guidance_taps=taps,
        mh_fpn_taps=(*taps, layers - 1),
        aggregator=AggregatorConfig(window=window),
    )


def siglip2_vitb16() -> ModelConfig:
    """SigLIP 2 B/16 at 384 pixels."""
    return _siglip2(12, 768, 12, 16, 24)


def siglip2_vitl16() -> ModelConfig:
    """SigLIP 2 L/16 at 384 pixels."""
    return _siglip2(24, 1024, 16, 16, 24)


def siglip2_so400m14() -> ModelConfig:
    """SigLIP 2 SO400M/14 at 378 pixels, which are all that its 384 pixels' 27 whole patches see."""
    return _siglip2(27, 1152, 16, 14, 27, mlp_width=4304, window=9)


def _with_gelu(base: ModelConfig, image: dict[str, Any], text: dict[str, Any]) -> ModelConfig:
    """A CLIP's sizes with GELU in both towers, and with other fields of these."""
    return base.replace(
        image=dataclasses.replace(base.image, activation="gelu", **image),
        text=dataclasses.replace(base.text, activation="gelu", **text),
    )


def _pe_core(base: ModelConfig) -> ModelConfig:
    """PE-Core with an image tower of these sizes. Both have the same text tower. Pixels go from -1 to 1."""
    halves = (127.5, 127.5, 127.5)
    text: Any = {"layers": 24, "width": 1024, "heads": 16, "context": 32}
    return _with_gelu(base, {"tower": "pe", "pixel_mean": halves, "pixel_std": halves}, text).replace(embed_dim=1024)


def pe_core_vitb16() -> ModelConfig:
    """PE-Core B/16, pretrained at 224 pixels, at 384 like CLIP's ViT-B/16."""
    return _pe_core(vitb16())


def pe_core_vitl14_336() -> ModelConfig:
    """PE-Core L/14 at 336 pixels."""
    return _pe_core(vitl14_336())


def _eva02(base: ModelConfig, inner: int, pretrained_grid: int) -> ModelConfig:
    """EVA-02-CLIP with an image tower of these sizes and CLIP's text tower; `inner` is the width of its MLPs."""
    image: Any = {"tower": "eva", "mlp_width": inner, "pretrained_grid": pretrained_grid, "activation": "silu"}
    return base.replace(
        image=dataclasses.replace(base.image, **image), text=dataclasses.replace(base.text, activation="gelu")
    )


def eva02_vitb16() -> ModelConfig:
    """EVA-02-CLIP B/16, pretrained at 224 pixels, at 384 like CLIP's ViT-B/16."""
    return _eva02(vitb16(), 2048, 14)


def eva02_vitl14_336() -> ModelConfig:
    """EVA-02-CLIP L/14 at 336 pixels."""
    return _eva02(vitl14_336(), 2730, 24)


def _metaclip2(base: ModelConfig, pretrained_grid: int) -> ModelConfig:
    """MetaCLIP 2 (worldwide) of these sizes: CLIP's towers with GELU and the words of XLM-V."""
    words: Any = {"tower": "metaclip2", "vocab_size": 901_629, "tokenizer": "tokenizer.json"}
    return _with_gelu(base, {"pretrained_grid": pretrained_grid}, words)


def metaclip2_vitb16() -> ModelConfig:
    """MetaCLIP 2 B/16, pretrained at 224 pixels, at 384 like CLIP's ViT-B/16."""
    return _metaclip2(vitb16(), 14)


def metaclip2_vitl14() -> ModelConfig:
    """MetaCLIP 2 L/14, pretrained at 224 pixels, at 336 like CLIP's ViT-L/14."""
    return _metaclip2(vitl14_336(), 16)


PRESETS = {
    "vitb16": vitb16,
    "vitl14_336": vitl14_336,
    "siglip2_vitb16": siglip2_vitb16,
    "siglip2_vitl16": siglip2_vitl16,
    "siglip2_so400m14": siglip2_so400m14,
    "pe_core_vitb16": pe_core_vitb16,
    "pe_core_vitl14_336": pe_core_vitl14_336,
    "eva02_vitb16": eva02_vitb16,
    "eva02_vitl14_336": eva02_vitl14_336,
    "metaclip2_vitb16": metaclip2_vitb16,
    "metaclip2_vitl14": metaclip2_vitl14,
    "tiny": tiny,
}
