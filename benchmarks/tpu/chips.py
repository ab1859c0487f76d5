"""What the vendor's data sheets say of TPU chips. Every estimate rests on these figures, and none was measured here."""

import dataclasses

from ahs_seg_jax.ahead_of_time import memory


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them: a whole chip, except that a v4 compiled for ahead of time counts as two cores."""

    teraflops: float  # TFLOP/s in bfloat16
    gigabytes: float  # GB/s of its main memory
    gigahertz: float  # clock: the rate in teraflops, divided by the operations of its matrix units in one cycle
    memory_gib: float  # size of its main memory

    def compute_seconds(self, flops: float) -> float:
        """How long `flops` floating-point operations take at full rate."""
        return flops / (self.teraflops * 1e12)

    def memory_seconds(self, moved: float) -> float:
        """How long `moved` bytes take through the main memory at full rate."""
        return moved / (self.gigabytes * 1e9)


_RATES = {"v4": (137, 614, 1.05), "v5e": (197, 819, 1.5), "v5p": (459, 2765, 1.75), "v6e": (918, 1640, 1.75)}
CHIPS = {name: Chip(*rates, memory.DEVICE_GIB[name]) for name, rates in _RATES.items()}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:2x2."""
    return CHIPS[topology.split(":")[0]]
