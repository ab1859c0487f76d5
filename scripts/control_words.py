"""A control for the unseen score: the same weights, with the unseen classes' names replaced by meaningless words.

    python scripts/control_words.py configs/tiny.py runs/tiny

A model that reads the names loses its unseen score; one that had guessed it from the images alone would keep it. Writes
`<workdir>/results/control_words.json`.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from ahs_seg_jax import config
from ahs_seg_jax.checkpoints import manifest, pretrained, starting
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.evaluation import run, score


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=pathlib.Path, help="the configuration the run was started with")
    parser.add_argument("workdir", type=pathlib.Path, help="the run's folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Scores the newest checkpoint with the unseen names replaced."""
    args = parse(arguments)
    experiment, mesh = config.load(args.config), make_mesh()
    meta = pretrained.training_meta(str(args.workdir))
    if meta is None:
        raise SystemExit(f"{args.workdir} holds no checkpoint; train it first: --config={args.config}")
    known = manifest.stored_vocabulary(meta)
    source = open_source(experiment.data, experiment.eval.split)
    seen = source.vocabulary.seen_by(known)
    names = [
        name if kept else f"thing {index}"
        for index, (name, kept) in enumerate(zip(source.vocabulary.names, seen, strict=True))
    ]
    source.vocabulary = dataclasses.replace(source.vocabulary, names=tuple(names), templates=known.templates)
    params, _ = starting.starting_params(dataclasses.replace(experiment, init=str(args.workdir)), mesh)
    weights = run.in_training(experiment, params, known, args.workdir, meta["step"], mesh)
    result = score.evaluate(weights, source, experiment.eval, mesh=mesh, log=print)
    run.write(result, args.workdir, "control_words")


if __name__ == "__main__":
    main()
