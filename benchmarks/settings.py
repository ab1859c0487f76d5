"""Settings of a measurement: sizes and amounts, with defaults for each model size and kind of machine."""

import dataclasses
from typing import Any

from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ModelConfig

# Classes in one pass of the large models during training. Both divide 171, and a CPU's caches hold the data of nine.
CLASSES_PER_PASS, CLASSES_PER_PASS_ON_CPU = 19, 9


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one measurement. A 0 stands for the default, which `complete` fills in."""

    size: str = "tiny"  # tiny | vitb16 | vitl14_336
    dtype: str = "float32"
    batch: int = 0  # images of a training step
    train_classes: int = 0
    classes: int = 0  # for inference
    crop: int = 0  # side in pixels of what the image tower sees
    class_chunk: int = -1  # classes of one pass in training; 0 = all at once; -1 = the default
    remat: str = ""  # what the backward pass computes again, none | cheap | all; "" = the default
    window_attention: str = ""  # products | xla | cudnn; "" = the default
    image: tuple[int, int] = (480, 640)  # (height, width) of the pictures that are segmented
    repetitions: int = 0

    def model(self) -> ModelConfig:
        """The model's configuration with these settings."""
        config = architecture.PRESETS[self.size]()
        image = dataclasses.replace(config.image, crop=self.crop or config.image.crop)
        return config.replace(
            image=image,
            dtype=self.dtype,
            class_chunk=max(self.class_chunk, 0),
            remat=self.remat or "none",
            window_attention=self.window_attention or config.window_attention,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types only; the inverse is `from_json`."""
        return dataclasses.asdict(self) | {"image": list(self.image)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        """What `to_json` made."""
        return cls(**(values | {"image": tuple(values["image"])}))


def complete(settings: Settings, platform: str, devices: int = 1) -> Settings:
    """The settings with all defaults filled in for a machine with `devices` devices of the platform cpu, gpu or tpu."""
    small, slow = settings.size == "tiny", platform == "cpu"
    defaults: dict[str, Any] = {
        "batch": -(-(4 if small else 1 if slow else 16) // devices) * devices,
        "train_classes": 20 if small else 171,
        "classes": 20 if small else 150,
        "crop": architecture.PRESETS[settings.size]().image.crop,
        "repetitions": 10 if small or not slow else 5,
    }
    filled: dict[str, Any] = {name: getattr(settings, name) or value for name, value in defaults.items()}
    chunk = 0 if small else CLASSES_PER_PASS_ON_CPU if slow else CLASSES_PER_PASS
    filled["class_chunk"] = settings.class_chunk if settings.class_chunk >= 0 else chunk
    filled["window_attention"] = settings.model().window_attention
    filled["remat"] = settings.remat or ("none" if small else "cheap")
    return dataclasses.replace(settings, **filled)
