"""What the vendor's data sheets say of TPU chips: the ground of every estimate, and no measurement."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of one device, as JAX counts them: a chip, but of a v4 ahead of time one of its two cores."""

    teraflops: float  # TFLOP/s in bfloat16
    gigabytes: float  # GB/s of its main memory
    unit: int  # side of its matrix units
    gigahertz: float  # clock: teraflops, divided by the operations that its matrix units do in one cycle

    def compute_seconds(self, flops: float) -> float:
        """Time of so many floating-point operations at full rate."""
        return flops / (self.teraflops * 1e12)

    def memory_seconds(self, moved: float) -> float:
        """Time of so many bytes through the main memory at full rate."""
        return moved / (self.gigabytes * 1e9)


CHIPS = {
    "v4": Chip(137, 614, 128, 1.05),
    "v5e": Chip(197, 819, 128, 1.5),
    "v5p": Chip(459, 2765, 128, 1.75),
    "v6e": Chip(918, 1640, 256, 1.75),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:2x2."""
    return CHIPS[topology.split(":")[0]]
