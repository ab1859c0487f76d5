"""The benchmarks by name."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Action, Program, Record
from benchmarks.settings import Settings
from benchmarks.work import folder, host, serving, training, training_free

SCALED_CLASSES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SCALED_BATCHES = (1, 2, 4, 8, 16, 32, 64)
SCALED_GRIDS = (1, 2, 3, 4)  # windows along a side of the feature grid
TWENTY = (("classes", 20),)

Build = Callable[[Settings], Program | Action | Record]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark builds, and its changes of the settings. One of a growing `series` has an `amount`."""

    build: Build
    title: str
    changes: tuple[tuple[str, Any], ...] = ()
    series: str = ""
    amount: float = 0.0

    def settings(self, settings: Settings) -> Settings:
        """The settings of this benchmark; `crop` among the changes counts windows of the aggregator."""
        changes = dict(self.changes)
        if "windows" in changes:
            config = settings.model()
            grid = config.aggregator.window * changes.pop("windows")
            changes["crop"] = grid * config.image.patch_size
        return dataclasses.replace(settings, **changes)


MAIN = {
    "train_step": Benchmark(training.whole_step, "training step"),
    "train_forward": Benchmark(training.forward, "its forward pass"),
    "train_forward_backward": Benchmark(training.forward_backward, "its forward and backward pass"),
    "train_update": Benchmark(training.update, "its update"),
    "part_text_tower": Benchmark(training.text_tower, "text tower, forward and backward"),
    "part_image_tower": Benchmark(training.image_tower, "image tower and guidance, forward and backward"),
    "part_rotations": Benchmark(training.rotations, "rotations, forward and backward"),
    "part_correlation": Benchmark(training.correlation, "correlation and its embedding, forward and backward"),
    "part_spatial": Benchmark(training.spatial, "spatial layers, forward and backward"),
    "part_class": Benchmark(training.class_layers, "class layers, forward and backward"),
    "part_decoder": Benchmark(training.decoder, "decoder, forward and backward"),
    "part_losses": Benchmark(training.image_losses, "segmentation and boundary loss, forward and backward"),
    "text_encoding": Benchmark(serving.text_encoding, "text encoding"),
    "whole_image": Benchmark(serving.whole_image, "whole image"),
    "sliding_window": Benchmark(serving.sliding_window, "sliding window"),
    "classes_150": Benchmark(serving.whole_image, "whole image, 150 classes", (("classes", 150),)),
    "classes_847": Benchmark(serving.whole_image, "whole image, 847 classes", (("classes", 847),)),
    "classes_5000": Benchmark(serving.whole_image, "whole image, 5000 classes", (("classes", 5000),)),
    "sliding_window_847": Benchmark(serving.sliding_window, "sliding window, 847 classes", (("classes", 847),)),
    "data_pipeline": Benchmark(host.data_pipeline, "training batches read"),
    "start_up": Benchmark(serving.start_up, "process to first picture, compiled programs cached"),
    "checkpoint_save": Benchmark(host.checkpoint_save, "checkpoint saved"),
    "evaluation": Benchmark(serving.evaluation, "evaluation"),
    "folder": Benchmark(folder.folder, "folder of photographs"),
    "folder_labels": Benchmark(folder.folder_of_labels, "folder of photographs, no overlays"),
    "folder_fast_device": Benchmark(folder.fast_device, "folder, the model replaced by a sleep of 20 ms"),
    "folder_fast_device_labels": Benchmark(folder.fast_device_of_labels, "the same, no overlays"),
    "naclip_new": Benchmark(training_free.new_picture, "naclip, new picture", TWENTY),
    "naclip_other_words": Benchmark(training_free.other_words, "naclip, other words on a known picture", TWENTY),
    "naclip_pamr": Benchmark(training_free.refined, "naclip with PAMR, known picture", TWENTY),
}
LARGE = {
    "naclip_large": Benchmark(
        training_free.large_picture,
        "naclip, 1,000 classes, 12 megapixels in native windows",
        (("classes", 1000), ("image", (3000, 4000))),
    ),
}
SCALING = {
    **{
        f"scaling_classes_{n}": Benchmark(
            serving.all_classes, f"whole image, all of {n} classes", (("classes", n),), "classes", n
        )
        for n in SCALED_CLASSES
    },
    **{
        f"scaling_batch_{n}": Benchmark(
            training.forward_backward, f"forward and backward, batch {n}", (("batch", n),), "batch", n
        )
        for n in SCALED_BATCHES
    },
    **{
        f"scaling_image_{n}": Benchmark(
            training.forward_backward,
            f"forward and backward, {n} x {n} windows",
            (("windows", n),),
            "image area",
            n * n,
        )
        for n in SCALED_GRIDS
    },
}
ALL = MAIN | LARGE | SCALING


def chosen(patterns: Sequence[str], quick: bool = False) -> list[str]:
    """Names that match any pattern (`scaling_*`), in the registry's order; no pattern means all.

    `quick` leaves out the large ones, every second point of the series and what takes longest. Raises ValueError for a
    pattern that matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(ALL, pattern):
            raise ValueError(f"no benchmark matches {pattern!r}; there are {', '.join(ALL)}")
    names = [name for name in ALL if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if quick and not patterns:
        short = {*SCALED_CLASSES[::2], *SCALED_BATCHES[:5:2], *SCALED_GRIDS[:3]}
        names = [name for name in names if name in MAIN or ALL[name].amount in short or name == "scaling_image_2"]
        names = [name for name in names if name != "scaling_classes_5000"]
    return names
