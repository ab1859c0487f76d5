"""Joins pictures of a run into one: python scripts/picture_grid.py OUTPUT.png PICTURE.png [PICTURE.png ...]"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from ahs_seg_jax.pictures.panels import grid


def main() -> None:
    """Reads the pictures and writes them below one another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("pictures", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    panels = [np.asarray(Image.open(path).convert("RGB")) for path in args.pictures]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(panels)).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
