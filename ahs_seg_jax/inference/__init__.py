"""From views of an image to labels.

The way of the data: `protocols` makes views of an image, `encoding` embeds the words, `engine` takes both through
`in_passes` (any number of classes in bounded memory) or `at_once` (an evaluation's batches), and `labelling` turns the
logits into labels. `native_windows` and `tiles` are for images at their own resolution, `plan` is for the memory.
"""

from ahs_seg_jax.inference.engine import Engine
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.plan import Plan
from ahs_seg_jax.inference.protocols import CAT_SEG, PROTOCOLS, WHOLE, Protocol, SlidingWindows, find_protocol

__all__ = [
    "CAT_SEG",
    "PROTOCOLS",
    "WHOLE",
    "Engine",
    "NativeWindows",
    "Plan",
    "Protocol",
    "SlidingWindows",
    "find_protocol",
]
