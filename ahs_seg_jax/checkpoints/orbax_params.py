"""A folder of parameters by Orbax, written and read whole.

Orbax takes a quarter of a second to import, and files of weights do not need it. So whoever may read either imports
this inside the function that needs it.
"""

import asyncio
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.checkpoints.steps import quiet_orbax
from ahs_seg_jax.models.parameters import Params


def write(folder: pathlib.Path, params: Params) -> None:
    """Writes a tree of arrays to a new folder. Raises what Orbax and TensorStore raise."""
    # Compressed, the file is 8 % smaller, and saving needs twice the memory of the weights on top of them.
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer:
        checkpointer.save(folder, params)


def read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[int, hashes.Examined]]:
    """A tree of NumPy arrays, and what each was found to be by `id`. Raises what Orbax and TensorStore raise."""
    quiet_orbax()
    reader = _Examining()
    # Orbax describes what is there by the types that it was written from; all of it is read as NumPy arrays.
    written_from = ((jax.Array, ocp.type_handlers.ArrayHandler()), (float, ocp.type_handlers.ScalarHandler()))
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, reader), *written_from)
    with reader.pool, ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder, restore_args=on_host), reader.examined


class _Examining(ocp.type_handlers.NumpyHandler):
    """Reads arrays, and examines each as soon as it is there, while the disk and the other cores read the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.examined = hashes.threads(), dict[int, hashes.Examined]()

    async def deserialize(self, infos: Any, args: Any = None) -> list[np.ndarray]:
        """See Orbax's."""
        reads = (self._one(*each) for each in zip(infos, args, strict=True))
        # All are waited for: a read that is left behind where another one fails tells of itself later.
        found: list[Any] = await asyncio.gather(*reads, return_exceptions=True)
        if failed := next((each for each in found if isinstance(each, BaseException)), None):
            raise failed
        return found

    async def _one(self, info: Any, arg: Any) -> np.ndarray:
        [array] = await super().deserialize([info], [arg])
        found = await asyncio.get_running_loop().run_in_executor(self.pool, hashes.examine, array)
        self.examined[id(array)] = found
        return array
