"""Writes the small model that the package ships from a finished training run, and says how well it survived.

    python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny
    python scripts/export_tiny.py runs/tiny ahs_seg_jax/checkpoints/tiny.safetensors

The scores of both on the drawn scenes' validation images, and the share of pixels with the same label, are printed.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.evaluation import metrics
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.vocabulary import Vocabulary


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="of a run of configs/tiny.py, or one step's directory")
    parser.add_argument("destination", type=pathlib.Path, help="the file to write")
    parser.add_argument("--scenes", type=int, default=50, help="validation scenes to compare on (default: 50)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file and compares the two models; returns the exit status."""
    options = parse(arguments)
    try:
        trained = load_pretrained(options.workdir)
        vocabulary = Vocabulary(trained.trained_names, trained.templates)
        size = packaged.save(options.destination, trained, vocabulary)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.destination}, {size / 1e6:.2f} MB")
    loaded = packaged.load(options.destination)
    models = [Segmenter(model.config, model.params, vocabulary.templates) for model in (trained, loaded)]
    source = ScenesSource(ScenesConfig(val_images=options.scenes), "val")
    names = source.vocabulary.names
    confusions = np.zeros((2, len(names), len(names)), np.int64)
    same, accuracy = 0, 0.0
    for index in range(len(source)):
        example = source[index]
        labels = [model(example["image"], names, protocol="whole").labels for model in models]
        same += int((labels[0] == labels[1]).sum())
        accuracy = accuracy if index else float((labels[1] == example["label"]).mean())
        for confusion, predicted in zip(confusions, labels, strict=True):
            confusion += metrics.confusion_matrix(example["label"], predicted, len(names))
    packaged.save(options.destination, trained, vocabulary, accuracy)
    pixels = confusions[0].sum()
    before, after = (metrics.scores(confusion).miou for confusion in confusions)
    print(f"{len(source)} scenes: mIoU {before:.2f} before, {after:.2f} after")
    print(f"{100 * same / pixels:.3f} % of the labels are equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
