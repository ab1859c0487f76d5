"""Sizes of the towers, without any model code: `model.image` and `model.text` of a configuration."""

import dataclasses

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "silu")


def mlp_width(inner: int, width: int) -> int:
    """The field `mlp_width` of a tower whose MLPs have this inner width."""
    return 0 if inner == 4 * width else inner


@dataclasses.dataclass(frozen=True)
class ImageTowerConfig:
    """The image tower. `crop` and `patch_size` are in pixels, `pretrained_grid` in patches."""

    tower: str = "clip"  # its name in towers.registry
    layers: int = 12
    width: int = 768
    heads: int = 12
    patch_size: int = 16
    crop: int = 384
    pretrained_grid: int = 14
    mlp_width: int = 0  # inner width of a block's MLP; 0 stands for four times the tower's width
    # quick_gelu (OpenAI) | gelu (exact) | gelu_tanh (SigLIP) | silu (the gates of EVA-02); tensors do not show it.
    activation: str = "quick_gelu"
    pixel_mean: tuple[float, float, float] = (122.7709383, 116.7460125, 104.09373615)  # RGB, 0..255
    pixel_std: tuple[float, float, float] = (68.5005327, 66.6321579, 70.3231630)

    @property
    def grid(self) -> int:
        """Side of the feature grid, in tokens."""
        return self.crop // self.patch_size

    @property
    def inner_width(self) -> int:
        """Of a block's MLP."""
        return self.mlp_width or 4 * self.width


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """The text tower. `context` is the longest prompt in tokens, start and end included."""

    tower: str = "clip"  # its name in towers.registry
    layers: int = 12
    width: int = 512
    heads: int = 8
    vocab_size: int = 49408
    context: int = 77
    mlp_width: int = 0  # as of the image tower
    tokenizer: str = "clip"  # clip (packaged) | the path of a tokenizer.json, for towers with another vocabulary
    activation: str = "quick_gelu"  # as of the image tower

    @property
    def inner_width(self) -> int:
        """Of a block's MLP."""
        return self.mlp_width or 4 * self.width
