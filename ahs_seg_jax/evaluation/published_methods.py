"""The settings with which training-free methods were published, benchmark by benchmark.

Source: the methods' programs. SCLIP (wangf3014/SCLIP b56bd30), NACLIP (sinahmr/NACLIP 0cac3a6), ClearCLIP
(mc-lan/ClearCLIP ad68a40, which runs MaskCLIP too), SC-CLIP (SuleBai/SC-CLIP 0417ba9), PEARL (PGSmall/PEARL c26062b).
They are for OpenAI's ViT-B/16 and ViT-L/14 at 224 pixels. `clip`, the ordinary last block, has NACLIP's settings.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from ahs_seg_jax.models.training_free import METHODS, TrainingFree

BENCHMARKS = (
    *("voc_20", "voc_21", "pascal_context_59", "pascal_context_60"),
    *("coco_object", "coco_stuff", "ade20k_150", "cityscapes"),
)
WITH_BACKGROUND = ("voc_21", "pascal_context_60", "coco_object")
Sizes = tuple[int, int, int | None]  # short side, window, stride in pixels; a window of 0: the whole image, no stride
ANY = ""  # the key of all benchmarks that have no value of their own


@dataclasses.dataclass(frozen=True)
class _Program:
    """What a program sets: for all benchmarks, and for those that differ. `probability` is of WITH_BACKGROUND."""

    sizes: Mapping[str, Sizes]
    scales: Mapping[str, float]
    probability: tuple[float, float, float]
    area: Mapping[str, float] = dataclasses.field(default_factory=dict)


_WINDOWS = {ANY: (336, 224, 112), "cityscapes": (560, 224, 112)}
_NACLIP = _Program(
    {**_WINDOWS, "voc_20": (336, 0, None), "voc_21": (336, 0, None)}, {ANY: 40.0}, probability=(0.1, 0.1, 0.1)
)
_CLEARCLIP = _Program({ANY: (448, 448, 224), "cityscapes": (448, 224, 224)}, {ANY: 50.0}, probability=(0.5, 0.15, 0.4))
_PROGRAMS = {
    "sclip": _Program(
        {**_WINDOWS, "coco_stuff": (448, 224, 112)},
        {ANY: 40.0, "voc_21": 65.0, "pascal_context_60": 50.0, "coco_object": 50.0},
        probability=(0.1, 0.1, 0.1),
        area={"voc_21": 0.1},
    ),
    "sc_clip": _Program(
        _WINDOWS,
        {ANY: 40.0, "voc_21": 50.0, "coco_object": 55.0},
        probability=(0.15, 0.15, 0.35),
        area={"voc_21": 0.1},
    ),
    **dict.fromkeys(("naclip", "pearl", "clip"), _NACLIP),
    **dict.fromkeys(("clearclip", "maskclip", "maskclip_residual"), _CLEARCLIP),
}
_PEARL_ALPHA = {ANY: 0.08, "ade20k_150": 0.3, "cityscapes": 0.3}
_PEARL_GRID = {ANY: 80, "cityscapes": 224}
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Published:
    """A method as it runs on a benchmark."""

    settings: TrainingFree
    probability: float  # a pixel whose most probable class has less is background
    area: float  # a class, not the background, of at most this share of the other classes' pixels gets no pixel
    known: (
        bool  # whether the benchmark is one that the method was published on; the settings are those of most otherwise
    )


def published(method: str, benchmark: str) -> Published:
    """How a method's program runs it on a benchmark. Raises ValueError for an unknown method (`TrainingFree`)."""
    TrainingFree(method)  # raises for an unknown one, with the known ones
    program = _PROGRAMS[method]
    short_side, window, stride = _of(program.sizes, benchmark)
    settings = TrainingFree(
        method,
        logit_scale=_of(program.scales, benchmark),
        short_side=short_side,
        window=window,
        stride=stride,
        refine=METHODS[method].refinement,
        pearl_alpha=_of(_PEARL_ALPHA, benchmark),
        pearl_grid=_of(_PEARL_GRID, benchmark),
    )
    probability = dict(zip(WITH_BACKGROUND, program.probability, strict=True)).get(benchmark, 0.0)
    return Published(settings, probability, program.area.get(benchmark, 0.0), benchmark in BENCHMARKS)


def _of(values: Mapping[str, Value], benchmark: str) -> Value:
    return values[benchmark] if benchmark in values else values[ANY]
