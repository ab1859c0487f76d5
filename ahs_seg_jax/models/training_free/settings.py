"""`TrainingFree`: which training-free method runs, and with which numbers; the methods' published ones by name.

Sources: NACLIP (WACV 2025), SCLIP and ClearCLIP (ECCV 2024), MaskCLIP (ECCV 2022), SC-CLIP (arXiv 2411.15869), PEARL
(CVPR 2026, arXiv 2603.21528), and their published programs. Parity: golden/training_free_small.npz.
"""

import dataclasses
import math
from typing import Literal

Refine = Literal["auto", "none", "pamr", "propagation"]
REFINEMENTS = ("auto", "none", "pamr", "propagation")
SC_CLIP_BLOCKS = {12: (8, 3, 3, 10)}  # published for towers of so many blocks; see `TrainingFree.sc_clip_blocks`


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method's published program does besides its last block."""

    logit_scale: float  # on most benchmarks
    refinement: Refine = "none"  # of its logits at the image's size
    padded: bool = False  # a window is padded to whole patches; otherwise the rest of a patch is not seen
    through_resized: bool = False  # a whole view's logits go to the resized image's size first, then to the image's


METHODS: dict[str, Method] = {
    "maskclip": Method(50.0, padded=True),
    "maskclip_residual": Method(50.0, padded=True),
    "clip": Method(40.0, through_resized=True),
    "sclip": Method(40.0),
    "clearclip": Method(50.0, padded=True),
    "naclip": Method(40.0, "pamr", through_resized=True),
    "sc_clip": Method(40.0),
    "pearl": Method(40.0, "propagation", through_resized=True),
}
DEFAULT_METHOD = "naclip"
# Of any image tower but CLIP's: MaskCLIP's step, each token's own value in the last attention, is what the tower itself
# takes for its dense features (of SigLIP and PE the value path of the pooling head). What the others do to the last
# block's own attention is defined for CLIP's tower only.
OF_OTHER_TOWERS = ("maskclip",)


@dataclasses.dataclass(frozen=True)
class TrainingFree:
    """A training-free method and its numbers. Sizes are in pixels; None stands for what suits the tower.

    For a tower that was pretrained on squares of side K: windows of K every K / 2 pixels, over the image resized to a
    short side of 1.5 K; with K = 224 these are the published 224, 112 and 336. A window of 0 is the whole resized image
    as one view.

    Raises ValueError for an unknown method or refinement, and for numbers out of range.
    """

    method: str = DEFAULT_METHOD
    gaussian_std: float = 5.0  # naclip: how far a token looks, in tokens
    logit_scale: float | None = None  # the cosines are multiplied by it before the softmax; None: the method's own
    short_side: int | None = None
    window: int | None = None
    stride: int | None = None
    refine: Refine = "auto"  # auto: the method's own, on images of at most `refining.AUTO_PIXELS` pixels
    pamr_steps: int = 10
    pamr_dilations: tuple[int, ...] = (8, 16)  # how far apart PAMR's neighbours lie, in pixels
    pearl_alpha: float = 0.08  # pearl: weight of the keys' similarity; published: 0.3 on ADE20K and Cityscapes
    pearl_grid: int = 80  # pearl: rows and columns, about, of its propagation; published: 224 on Cityscapes
    sc_clip_blocks: tuple[int, int, int, int] | None = None
    """sc_clip: the blocks (0-based) whose similarities smooth the last features (8 of 12) and its results (3), and the
    first of those that are summed (3) and the one after the last (10). None: the published ones, for 12 blocks."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown training-free method {self.method!r}; choose one of {', '.join(METHODS)}")
        if self.refine not in REFINEMENTS:
            raise ValueError(f"refine is {self.refine!r}; choose one of {', '.join(REFINEMENTS)}")
        if self.logit_scale is None:
            object.__setattr__(self, "logit_scale", METHODS[self.method].logit_scale)
        object.__setattr__(self, "pamr_dilations", tuple(self.pamr_dilations))
        for name in ("gaussian_std", "logit_scale", "pearl_alpha"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be positive")
        least = {"window": 0}
        for name in ("short_side", "window", "stride", "pamr_steps", "pearl_grid"):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                raise ValueError(f"{name} is {value}; it must be at least {least.get(name, 1)}")
        if not self.pamr_dilations or min(self.pamr_dilations) < 1:
            raise ValueError(f"pamr_dilations is {self.pamr_dilations}; give one or more distances of at least 1 pixel")
        if self.window and self.stride is not None and self.stride > self.window:
            raise ValueError(f"the stride is {self.stride}; it must lie within 1 and the window's {self.window} pixels")

    @property
    def refinement(self) -> Refine:
        """none | pamr | propagation."""
        return METHODS[self.method].refinement if self.refine == "auto" else self.refine

    def sizes(self, square: int) -> tuple[int, int, int]:
        """(short side, window, stride) for a tower that was pretrained on squares of this side."""
        window = square if self.window is None else self.window
        stride = max(1, (window or square) // 2) if self.stride is None else self.stride
        return (square * 3 // 2 if self.short_side is None else self.short_side), window, stride

    def taps(self, layers: int) -> tuple[int, ...]:
        """The blocks whose outputs the last block needs besides its input; `layers` blocks in all.

        Raises ValueError if the method cannot run on so many blocks.
        """
        if self.method != "sc_clip":
            return ()
        smoothing, results, first, stop = self.blocks_of_sc_clip(layers)
        return tuple(sorted({smoothing, results, *range(first, stop)}))

    def blocks_of_sc_clip(self, layers: int) -> tuple[int, int, int, int]:
        """`sc_clip_blocks`, or the published ones. Raises ValueError if there are none for so many blocks."""
        found = self.sc_clip_blocks or SC_CLIP_BLOCKS.get(layers)
        if found is None:
            raise ValueError(
                f"sc_clip has published constants for towers of 12 blocks, and this one has {layers}; give your own "
                "as TrainingFree('sc_clip', sc_clip_blocks=(...)), or use another method, such as naclip"
            )
        smoothing, results, first, stop = found
        if not (
            0 <= first < stop <= layers - 1 and 0 <= min(smoothing, results) <= max(smoothing, results) < layers - 1
        ):
            raise ValueError(
                f"sc_clip_blocks is {found}; blocks before the last one of {layers} are 0 to {layers - 2}, and the sum "
                "must hold at least one of them"
            )
        return found
