"""What the readers of all formats return: names, shapes and types at once, values one tensor at a time."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.errors import CheckpointError

CONFIG_KEY = "ahs_seg_jax_config"  # our model configuration as JSON, in the files that this project writes
WEIGHT_FILES = (  # by their usual names, the first that is there counts; an index names the shards
    *("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file. `load` reads it in the file's dtype, as a view of the file where that is possible."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """An open file of tensors, or several that belong together. `config` is our model configuration, if it has one."""

    where: str
    kind: str
    paths: tuple[pathlib.Path, ...]
    tensors: dict[str, LazyTensor]
    config: dict[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def parse_config(text: Any, path: pathlib.Path) -> dict[str, Any] | None:
    """The JSON that files of ours hold. Raises CheckpointError if it is none."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise CheckpointError(f"{path}: its {CONFIG_KEY} is no text")
    return manifests.parse_json(text, f"the JSON in {path}")
