"""Settings of the data: which source, how images are augmented, what happens with corrupt ones."""

import dataclasses

ON_CORRUPT = ("stop", "skip")
LABEL_RESIZE = ("floor", "centre")


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training examples."""

    scale: tuple[float, float] = (1.0, 1.0)  # the shortest edge becomes the crop times a uniform draw from this range
    max_edge: int = 1333  # the longest edge is at most this, pixels
    color_jitter: bool = True  # SSD's brightness, contrast, saturation, hue; off where classes are colours
    flip: bool = True  # mirror left and right with probability 1/2
    label_resize: str = "floor"  # pixel that a resized label reads: floor (published) | centre (aligned with the image)
    crop: int = 0  # side of the crops, pixels; the model resizes them to its image tower's. 0 = `model.image.crop`

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one sentence each: field, value seen, what would be valid."""
        found = []
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            found.append(f"data.augment.scale is {self.scale}; it must be two positive numbers, the smaller first")
        if self.max_edge < 1:
            found.append(f"data.augment.max_edge is {self.max_edge}; it must be at least 1")
        return found


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """How scenes are drawn."""

    size: int = 96  # side of the square images, pixels
    train_images: int = 20_000  # scenes of split train; drawn when they are read
    val_images: int = 200  # scenes of split val
    seed: int = 0  # of the scenes
    min_objects: int = 1
    max_objects: int = 3
    min_radius: float = 0.20  # of an object, as a share of the image's side
    max_radius: float = 0.32
    noise: float = 0.02  # standard deviation of the pixel noise, of full range

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one sentence each: field, value seen, what would be valid."""
        found = [
            f"data.scenes.{field} is {getattr(self, field)}; it must be at least {least}"
            for field, least in (("size", 32), ("train_images", 1), ("val_images", 1), ("seed", 0), ("min_objects", 1))
            if getattr(self, field) < least
        ]
        if self.max_objects < self.min_objects:
            found.append(
                f"data.scenes.max_objects is {self.max_objects}; it must be at least min_objects = {self.min_objects}"
            )
        if not 0.03 <= self.min_radius <= self.max_radius <= 0.4:
            found.append(
                f"data.scenes.min_radius, max_radius are {self.min_radius}, {self.max_radius}; "
                "they must ascend within 0.03..0.4 of the side"
            )
        if not 0 <= self.noise <= 0.5:
            found.append(f"data.scenes.noise is {self.noise}; it must lie within 0..0.5")
        return found


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images and labels come from, and how they are read."""

    name: str = "scenes"  # scenes (drawn, no files) | folder | a benchmark (`ahs-seg data prepare`)
    root: str = ""  # folder of the data on disk (of benchmarks also AHS_SEG_DATA); unused by scenes
    # Prompts, in which {} stands for the class name; () = those of the evaluated weights, or the scene prompt.
    templates: tuple[str, ...] = ()
    num_threads: int = 2  # threads that read and augment; 0 = in the training thread
    prefetch: int = 4  # batches read ahead
    on_corrupt: str = "stop"  # an unreadable file in mid-run: stop | skip (another example takes its place; counted)
    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
