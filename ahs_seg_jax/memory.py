"""What a configuration needs of each device, predicted by compiling its real programs without running them.

    python -m ahs_seg_jax.memory --config=configs/vitb.py                          # on the devices at hand
    python -m ahs_seg_jax.memory --config=configs/vitb.py --topology=v5e:2x2       # for a TPU, on any machine with libtpu
    ... --config.train.batch_size=16 --config.mesh.fsdp=4 --mode=eval

No data and no weights are read. The figures are the compiler's own: bytes of arguments, results and temporaries on one
device, floating-point operations, bytes moved, and the collective operations in the program (a loop's body counts once).
"""

import collections
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import Mesh
from ml_collections import config_flags

from ahs_seg_jax import config, inference, initialise, losses, parallel
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.data.sources import open_source
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.step import abstract_state, jitted_step
from ahs_seg_jax.vocabulary import Vocabulary, hierarchy_pairs

GIB = 2**30
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Memory of a chip in GiB, and its name in a topology: the vendor's data sheets.
CHIP_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one compiled program, on each device. `seconds` is the compiler's estimate where it makes one, not a measurement."""

    arguments: int  # bytes
    results: int  # bytes that do not take the place of arguments
    temporaries: int  # bytes
    operations: float  # floating-point operations
    moved: float  # bytes
    seconds: float | None
    collectives: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes of arguments, results and temporaries together: what the device must have."""
        return self.arguments + self.results + self.temporaries


def figures(compiled: Any) -> Figures:
    """The compiler's figures of a compiled program."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    pattern = rf"= [^=]*? ({'|'.join(COLLECTIVES)})(?:-start)?\("
    found = collections.Counter(re.findall(pattern, compiled.as_text()))
    return Figures(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        operations=float(cost.get("flops", 0.0)),
        moved=float(cost.get("bytes accessed", 0.0)),
        seconds=float(cost["optimal_seconds"]) if cost.get("optimal_seconds", 0.0) > 0 else None,
        collectives={name: found[name] for name in COLLECTIVES if found[name]},
    )


def topology_devices(name: str) -> list[Any]:
    """The devices of a TPU topology such as v5e:2x2, for compiling. Raises InputError without libtpu or for no topology."""
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as error:  # libtpu and JAX fail in many ways
        cause = str(error).splitlines()[0]
        raise config.InputError(
            f"cannot compile for the topology {name!r}: {cause}; it needs libtpu (pip install 'ahs_seg_jax[tpu]'), and a "
            "name such as v5e:2x2, v4:2x2x2, v5p:2x2x2, v6e:4x4"
        ) from error


def training_vocabulary(experiment: Experiment) -> Vocabulary:
    """The vocabulary of the training data, without the data where it is known."""
    name, templates = experiment.data.name, experiment.data.templates
    if name not in ("scenes", "coco_stuff"):
        return open_source(experiment.data, "train").vocabulary
    vocabulary = scenes_vocabulary("train") if name == "scenes" else Vocabulary.named(name)
    return dataclasses.replace(vocabulary, templates=templates) if templates else vocabulary


def _whole(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=parallel.replicated(mesh))


def _by_row(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=parallel.along_batch(mesh))


def compile_training(experiment: Experiment, vocabulary: Vocabulary, mesh: Mesh) -> Any:
    """The training step, compiled for the mesh. Raises ValueError for a batch that cannot be split over it."""
    train, crop = experiment.train, experiment.model.image.crop
    parallel.check_batch(train.batch_size, train.accumulation, mesh)
    state = abstract_state(experiment, mesh)
    batch = {
        "image": _by_row(mesh, (train.batch_size, crop, crop, 3), jnp.uint8),
        "label": _by_row(mesh, (train.batch_size, crop, crop), jnp.int32),
        "index": _by_row(mesh, (train.batch_size,), jnp.int32),
    }
    tokens = vocabulary.tokens(experiment.model.text.context)
    step = jitted_step(experiment, losses.ClassPairs(*hierarchy_pairs(vocabulary)), mesh, state)
    return step.lower(state, batch, _whole(mesh, tokens.shape, tokens.dtype)).compile()


def compile_evaluation(experiment: Experiment, vocabulary: Vocabulary, mesh: Mesh) -> Any:
    """The logits of one batch of images, rotations folded and text encoded before, compiled for the mesh."""
    model, settings = AHSSeg(experiment.model.replace(adaptation="none")), experiment.eval
    rows = -(-settings.batch_size // parallel.batch_shards(mesh)) * parallel.batch_shards(mesh)
    shapes = jax.eval_shape(lambda: initialise.fresh_params(dataclasses.replace(experiment, model=model.config)))
    params = jax.tree.map(lambda leaf: _whole(mesh, leaf.shape, leaf.dtype), shapes)
    classes = -(-len(vocabulary) // inference.CLASSES_AT_ONCE) * inference.CLASSES_AT_ONCE
    views = inference.views_shape(settings.protocol, experiment.model.image.crop)
    text = (classes, experiment.model.aggregator.prompts, experiment.model.embed_dim)
    return inference.view_logits.lower(
        model,
        params,
        _by_row(mesh, (rows, *views), jnp.float32),
        _whole(mesh, text, jnp.float32),
        _whole(mesh, (classes,), np.bool_),
        class_pooling=settings.class_pooling,
        sharding=parallel.along_batch(mesh),
    ).compile()


def report(title: str, found: Figures, available: float | None) -> str:
    """Lines for people. `available` is a device's memory in GiB, where it is known."""
    of = f" of {available:g} GiB: {'fits' if found.peak <= available * GIB else 'DOES NOT FIT'}" if available else ""
    lines = [
        f"{title}, on each device:",
        f"  peak         {found.peak / GIB:8.2f} GiB{of}",
        f"  arguments    {found.arguments / GIB:8.2f} GiB (parameters, optimiser state, batch)",
        f"  results      {found.results / GIB:8.2f} GiB",
        f"  temporaries  {found.temporaries / GIB:8.2f} GiB",
        f"  operations   {found.operations / 1e12:8.2f} TFLOP, {found.moved / GIB:.1f} GiB moved (loop bodies count once)",
    ]
    if found.seconds:
        lines.append(f"  estimate     {found.seconds * 1e3:8.1f} ms by the compiler, not measured")
    shown = ", ".join(f"{count} {name}" for name, count in found.collectives.items())
    return "\n".join([*lines, f"  collectives  {shown or 'none'}"])


def device_gib(devices: Sequence[Any], topology: str) -> float | None:
    """Memory of one device in GiB, where it is known."""
    if topology:
        return CHIP_GIB.get(topology.split(":")[0])
    stats = devices[0].memory_stats() or {}
    return stats["bytes_limit"] / GIB if "bytes_limit" in stats else None


def main(_argv: Sequence[str]) -> None:
    """See the module's docstring."""
    values = flags.FLAGS.config.copy_and_resolve_references()
    values.init = values.init or config.RANDOM_INIT  # weights change nothing here
    try:
        experiment = config.from_config_dict(values)
        topology = flags.FLAGS.topology
        devices = topology_devices(topology) if topology else jax.devices()
        with config.checking_input():
            mesh = parallel.make_mesh(devices, experiment.mesh)
            training = flags.FLAGS.mode == "train"
            make = compile_training if training else compile_evaluation
            found = figures(make(experiment, training_vocabulary(experiment), mesh))
    except (config.InputError, OSError) as error:
        sys.exit(f"error: {error}")
    size = experiment.train.batch_size if training else experiment.eval.batch_size
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    title = f"{experiment.name}, {flags.FLAGS.mode}, batch {size} over {mesh.devices.size} devices ({axes})"
    print(report(title, found, device_gib(devices, topology)))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Configuration file, such as configs/vitb.py.")
    flags.DEFINE_string("topology", "", "TPU topology to compile for; empty: the devices at hand.")
    flags.DEFINE_enum("mode", "train", config.MODES, "The program to look at.")
    flags.mark_flag_as_required("config")
    app.run(main)
