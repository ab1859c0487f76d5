"""Settings of an evaluation: protocol, benchmarks, what is saved."""

import dataclasses

PREDICTIONS = ("", "png", "coco")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How a model is scored."""

    benchmarks: tuple[str, ...] = ()  # data sets evaluated in turn with --mode=eval; () = the training data's own split
    protocol: str = "whole"  # whole (one view) | cat_seg (windows and a global view, the published numbers)
    class_pooling: int = 1  # side of the average pooling before the class layers, in grid tokens
    batch_size: int = 1  # images (whole) segmented at once
    limit: int = 0  # images scored, from the start of the split; 0 = all
    quick: bool = False  # score a fixed subset of 100 images, for a first answer
    pictures: int = 8  # pictures of predictions written beside the results: random images, the worst, the best
    split: str = "val"
    save_predictions: str = ""  # with --mode=eval: "" (none) | png (class indices) | coco (run-length codes)
    # A file of class names in place of the packaged ones, one class a line; of a folder, its <benchmark>.txt.
    class_names: str = ""
    expected: str = ""  # the published checkpoint this should be, such as catseg_vitb16; its scores are compared
    again: bool = False  # evaluate even where a results file of the same evaluation is there
    allow_bad_data: bool = False  # score data that their doctor refuses; the results say so
