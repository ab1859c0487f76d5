"""All benchmarks by name."""

from ahs_seg_jax.data.benchmarks.ade20k import ADE20K_150, ADE20K_847, ADE20K_847_JPEG
from ahs_seg_jax.data.benchmarks.benchmark import Benchmark
from ahs_seg_jax.data.benchmarks.cityscapes import CITYSCAPES
from ahs_seg_jax.data.benchmarks.coco_stuff import COCO_OBJECT, COCO_STUFF
from ahs_seg_jax.data.benchmarks.pascal_context import PASCAL_CONTEXT_59, PASCAL_CONTEXT_60, PASCAL_CONTEXT_459
from ahs_seg_jax.data.benchmarks.voc import VOC_20, VOC_20B, VOC_21

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        *(COCO_STUFF, ADE20K_150, ADE20K_847, ADE20K_847_JPEG, PASCAL_CONTEXT_59, PASCAL_CONTEXT_459, VOC_20, VOC_20B),
        *(VOC_21, PASCAL_CONTEXT_60, COCO_OBJECT, CITYSCAPES),
    )
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises ValueError, listing the known ones, for another name."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
