"""`ahs-seg serve`: the server."""

import importlib.util
import pathlib
import sys
from typing import Annotated, Any

import typer

from ahs_seg_jax.cli import options
from ahs_seg_jax.devices import host_memory

LIBRARIES = ("fastapi", "fastapi_offline", "multipart", "prometheus_client", "uvicorn")


def serve(
    model: options.Model = "tiny",
    activation: options.Activation = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    method: options.Method = "model",
    protocol: options.Protocol = "model",
    memory_gb: options.MemoryGB = None,
    max_upload_mb: options.MaxUploadMB = 20,
    max_megapixels: options.MaxMegapixels = 16,
    max_classes: options.MaxClasses = 100,
    max_seconds: options.MaxSeconds = 60,
    max_waiting: Annotated[int, typer.Option(help="Most requests at once; others are told to come later.", min=1)] = 32,
    max_together: Annotated[int, typer.Option(help="Most images with the same words in one call.", min=1)] = 8,
    api_key: options.ApiKey = None,
    allowed_host: options.AllowedHost = None,
) -> None:
    """A server: an image and words by HTTP, labels as the answer.

    Needs pip install 'ahs_seg_jax[serve]'. It listens on this machine only, unless told otherwise. /docs shows how to
    ask.
    """

    def command() -> None:
        _check_extra()
        options.check_address(host, port)
        from ahs_seg_jax.admission import Hosts
        from ahs_seg_jax.serve.limits import Limits

        named = allowed_host or []
        Hosts.of(host, named)  # a mistake is found before a model is loaded
        keys = _keys(api_key)
        limits = Limits(
            upload_mb=max_upload_mb,
            megapixels=max_megapixels,
            classes=max_classes,
            seconds=max_seconds,
            waiting=max_waiting,
            together=max_together,
        )
        from ahs_seg_jax.segmenter import Segmenter
        from ahs_seg_jax.serve import run

        host_memory.return_freed_memory()
        print(f"loading {model} ...", file=sys.stderr)
        own: dict[str, Any] = {"method": options.method_or_none(method), "activation": activation}
        if protocol_used := options.protocol_or_none(protocol):
            own["protocol"] = protocol_used
        segmenter = Segmenter.from_pretrained(model, memory_gb=memory_gb, **own)
        run.warm(segmenter, ("grass", "sand"), limits.together)

        def listening() -> None:
            print(f"the server is at http://{host}:{port}, its page at /docs (Ctrl-C ends it)", file=sys.stderr)
            if host in options.EVERYWHERE and not keys:
                print("everybody in this network can use it; --api-key asks for a key", file=sys.stderr)

        run.run(segmenter, host, port, limits, named, _about(model, segmenter.method), keys, listening)

    options.finish(command)


def _about(model: str, method: str) -> str:
    from ahs_seg_jax.checkpoints import packaged

    if model == packaged.TINY:
        return "The small model knows drawings only; its answers to photographs mean nothing."
    return f"Model: {pathlib.PurePath(model).name}, method {method}."


def _keys(api_key: str | None) -> frozenset[str]:
    if api_key is None:
        return frozenset()
    if len(api_key) < 16 or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError(
            "the API key is shorter than 16 letters, or has other letters than a header can hold; make one: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return frozenset({api_key})


def _check_extra() -> None:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the server needs {', '.join(missing)}, which is not installed: pip install 'ahs_seg_jax[serve]'"
        )
