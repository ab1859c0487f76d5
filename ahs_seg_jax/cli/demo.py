"""`ahs-seg demo`: the page in the browser."""

import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ahs_seg_jax.cli import options
from ahs_seg_jax.devices import host_memory

if TYPE_CHECKING:  # nothing heavy is imported before a command runs
    from ahs_seg_jax.demo.answers import Limits


def demo(
    model: options.Model = "tiny",
    activation: options.Activation = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 7860,
    method: options.Method = "model",
    protocol: options.Protocol = "model",
    memory_gb: options.MemoryGB = None,
    max_upload_mb: options.MaxUploadMB = 20,
    max_megapixels: options.MaxMegapixels = 16,
    max_classes: options.MaxClasses = 100,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    allowed_host: options.AllowedHost = None,
) -> None:
    """A page in the browser: an image, your words.

    Needs pip install 'ahs_seg_jax[demo]'. It listens on this machine only, and fetches and sends nothing elsewhere.
    """

    def command() -> None:
        _check_extra()
        options.check_address(host, port)
        from ahs_seg_jax.admission import Hosts
        from ahs_seg_jax.demo.answers import Limits

        limits, named = Limits(max_upload_mb, max_megapixels, max_classes), allowed_host or []
        Hosts.of(host, named)  # a mistake is found before a model is loaded
        own = options.protocol_or_none(protocol), options.method_or_none(method)
        serve(model, own[0], memory_gb, limits, host, port, open_browser, named, own[1], activation)

    options.finish(command)


def serve(
    model: str,
    protocol: str | None,
    memory_gb: float | None,
    limits: "Limits",
    host: str,
    port: int,
    open_browser: bool = False,
    allowed_hosts: Sequence[str] = (),
    method: str | None = None,
    activation: str | None = None,
) -> None:
    """Loads the model, answers the first example, and shows the page until it is interrupted."""
    from ahs_seg_jax.checkpoints import packaged
    from ahs_seg_jax.demo import answers, examples
    from ahs_seg_jax.segmenter import Segmenter
    from ahs_seg_jax.vocabulary import words_of

    host_memory.return_freed_memory()
    print(f"loading {model} ...", file=sys.stderr)
    own: dict[str, Any] = {"protocol": protocol} if protocol else {}
    own |= {"method": method, "activation": activation, "memory_gb": memory_gb}
    segmenter = Segmenter.from_pretrained(model, **own)
    known, about = frozenset[str](), f"Model: {pathlib.PurePath(model).name}."
    if segmenter.training_free:
        about += f" Training-free method: {segmenter.method}; confidence is a share of the words that are typed."
    if model == packaged.TINY:
        known = words_of(packaged.load_tiny().trained_names)
        about = f"The small model knows drawings and these words only: {', '.join(sorted(known))}."
    drawn = examples.examples()

    def ask(path: str | None, words: str, least_confidence: float, shown_name: str) -> answers.Answer:
        return answers.answer(segmenter, path, words, least_confidence, limits, known, shown_name)

    with tempfile.TemporaryDirectory(prefix="ahs_seg_demo_") as folder:
        # Read by Gradio when it is imported: no reports about its use, and uploads where they are removed at the end.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_DISABLE_TELEMETRY": "1"}
        from ahs_seg_jax.demo import page

        built = page.build(ask, drawn, limits, about, pathlib.Path(folder))
        segmenter(drawn[0].image, list(drawn[0].names))  # compiled before the first visitor
        print(f"the page is at http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
        if host in options.EVERYWHERE:
            print("everybody in this network can use it; there is no password", file=sys.stderr)
        page.serve(built, host, port, limits, open_browser, allowed_hosts)


def _check_extra() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("the page needs gradio, which is not installed: pip install 'ahs_seg_jax[demo]'")
