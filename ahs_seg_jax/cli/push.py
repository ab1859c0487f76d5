"""`ahs-seg push`: publishes a model on the Hugging Face hub."""

import os
import sys
from typing import Annotated

import typer

from ahs_seg_jax.cli import options


def push(
    run_or_model: Annotated[str, typer.Argument(metavar="RUN", help=options.CHECKPOINTS.capitalize())],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if there is none.")],
    activation: options.Activation = None,
    licence: Annotated[str, typer.Option(help="Of the weights, by the hub's names: mit, apache-2.0, cc-by-4.0.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Fold the rotations into the weights.")] = False,
) -> None:
    """Publishes a model with its results.

    Uploads safetensors, what is known of the model, the results of RUN/results and a card made of these, in one commit.
    `Segmenter.from_pretrained("owner/name")` reads it back, exactly. It needs an account: `hf auth login`.
    """
    options.finish(lambda: run(run_or_model, repository, licence, private, merge, activation))


def run(source: str, repository: str, licence: str, private: bool, merge: bool, activation: str | None = None) -> None:
    """Publishes, and prints the page's address. Raises CheckpointError."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it needs no accelerator, and must not take one
    from ahs_seg_jax.checkpoints import pretrained, published

    published.check_name(repository)
    loaded = pretrained.load_pretrained(source, activation=activation)
    if merge:
        loaded = pretrained.merged(loaded)
    results = published.results_of(source)
    page = published.publish(loaded, repository, results, licence=licence, private=private)
    print(f"{len(results)} results file(s) of {source} are published with it", file=sys.stderr)
    print(page)
