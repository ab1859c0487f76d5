"""From a model to a running server."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import uvicorn

from ahs_seg_jax.admission import Hosts
from ahs_seg_jax.segmenter import Segmentation, Segmenter
from ahs_seg_jax.serve import patience
from ahs_seg_jax.serve.app import build
from ahs_seg_jax.serve.batching import Words
from ahs_seg_jax.serve.limits import Limits

STOPPING_SECONDS = 10  # that answers may take when the server is told to stop
BACKLOG = 512  # connections that the system keeps until they are taken


def segment_with(segmenter: Segmenter) -> Callable[[list[np.ndarray], Words], Sequence[Segmentation]]:
    """The call that `Batches` makes."""
    return lambda images, words: segmenter(images, words.names, unknown=words.unknown)


def warm(segmenter: Segmenter, names: Sequence[str], together: int) -> None:
    """Compiles what calls with 1, 2, 4 ... images need, so that no visitor waits for it."""
    drawn = np.random.default_rng(0)
    count = 1
    while count <= together:
        # Different images: those that the segmenter knows already are not computed again.
        segmenter([drawn.integers(0, 256, (384, 384, 3), np.uint8) for _ in range(count)], tuple(names))
        count *= 2


def run(
    segmenter: Segmenter,
    host: str,
    port: int,
    limits: Limits,
    allowed_hosts: Sequence[str] = (),
    about: str = "",
    keys: frozenset[str] = frozenset(),
    listening: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGINT or SIGTERM; `listening` is called when it can be reached. Raises OSError for a taken port."""
    app = build(segment_with(segmenter), limits, Hosts.of(host, allowed_hosts), about, keys)
    server = uvicorn.Server(configuration(app, limits))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Uvicorn raises a signal again when it has stopped
    try:
        with socket.create_server((host, port), family=family, backlog=BACKLOG) as listener:
            listening()
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(server.serve(sockets=[listener]))
    finally:
        app.server.close()


def configuration(app: Any, limits: Limits) -> uvicorn.Config:
    """Uvicorn's settings: HTTP/1.1 only, small headers, no patience with slow clients."""
    return uvicorn.Config(
        app,
        http=patience.protocol(limits.upload_seconds),
        ws="none",
        lifespan="off",
        h11_max_incomplete_event_size=patience.MOST_HEADER_BYTES,
        timeout_graceful_shutdown=STOPPING_SECONDS,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
    )
