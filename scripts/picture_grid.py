"""Joins pictures of a run into one, below one another.

python scripts/picture_grid.py OUTPUT.png PICTURE.png [PICTURE.png ...]
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ahs_seg_jax.pictures.panels import grid


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("pictures", type=pathlib.Path, nargs="+")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the pictures and writes them below one another."""
    args = parse(arguments)
    panels = [np.asarray(Image.open(path).convert("RGB")) for path in args.pictures]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(panels)).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
