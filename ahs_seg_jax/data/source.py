"""`Source`: what every data source offers."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from ahs_seg_jax.vocabulary import Vocabulary


@runtime_checkable
class Source(Protocol):
    """Labelled images by index. Picklable; any thread may read any example at any time.

    `source[i]` is `{"image": uint8 [h, w, 3] RGB, "label": int32 [h, w]}`, label = index into `vocabulary` or -1 where
    unlabelled; it raises `CorruptExample` for an unreadable file. `vocabulary` holds the classes that labels index.

    A benchmark may have, besides, `merge_predictions` (`int32 [t]`: the scored class of each predicted one) with
    `scored_names`, and `doctor_problems` (why its scores should not be trusted); see `prepared/prepared_source.py`.
    """

    vocabulary: Vocabulary

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, np.ndarray]: ...

    def name(self, index: int, /) -> str:
        """What people call example `index`: its file name, or "scene 17"."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready facts that tell this data set from another: counts, hashes, parameters."""
        ...
