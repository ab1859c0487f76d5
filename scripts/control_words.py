"""A control for the unseen score: the same weights, with the unseen classes' names replaced by meaningless words.

    python scripts/control_words.py configs/tiny.py runs/tiny

A model that reads the names loses its unseen score; one that had guessed it from the images alone would keep it. Writes
`<workdir>/results/control_words.json`.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax import config, initialise, parallel, scoring
from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.data.sources import open_source


def load_experiment(path: pathlib.Path) -> Experiment:
    """The experiment of a configuration file."""
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file with a get_config(); configs/tiny.py is one")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return config.from_config_dict(module.get_config())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=pathlib.Path, help="the configuration the run was started with")
    parser.add_argument("workdir", type=pathlib.Path, help="the run's folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Scores the newest checkpoint with the unseen names replaced."""
    args = parse(arguments)
    experiment, mesh = load_experiment(args.config), parallel.make_mesh()
    meta = pretrained.training_meta(str(args.workdir))
    if meta is None:
        raise SystemExit(f"{args.workdir} holds no checkpoint; train it first: --config={args.config}")
    known = scoring.stored_vocabulary(meta)
    source = open_source(experiment.data, experiment.eval.split)
    seen = source.vocabulary.seen_by(known)
    names = [
        name if kept else f"thing {index}"
        for index, (name, kept) in enumerate(zip(source.vocabulary.names, seen, strict=True))
    ]
    source.vocabulary = dataclasses.replace(source.vocabulary, names=tuple(names), templates=known.templates)
    params, _ = initialise.starting_params(dataclasses.replace(experiment, init=str(args.workdir)), mesh)
    checkpoint = {"path": str(args.workdir), "step": meta["step"]}
    result = scoring.score(experiment, params, source, known, checkpoint, mesh)
    scoring.write(result, args.workdir, "control_words")


if __name__ == "__main__":
    main()
