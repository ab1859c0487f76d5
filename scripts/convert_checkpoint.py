"""Converts a checkpoint of OpenAI or Hugging Face CLIP, CAT-Seg or AHS-Seg to this program's format, and back."""

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a conversion needs no accelerator, and must not take one

from ahs_seg_jax.checkpoints import command
from ahs_seg_jax.checkpoints.layouts import LAYOUTS

EXAMPLES = """
examples:
  CAT-Seg's published model, ready for training and evaluation here:
    python scripts/convert_checkpoint.py model_base.pth catseg_base
  OpenAI's CLIP, and the same weights from the Hugging Face hub:
    python scripts/convert_checkpoint.py ViT-B-16.pt clip_b
    python scripts/convert_checkpoint.py openai/clip-vit-base-patch16 clip_b
  What was trained here, as a file for the PyTorch program AHS-Seg:
    python scripts/convert_checkpoint.py runs/vitb ahs_seg.pth --to ahs_seg
  The same with the rotations folded into the weights, which CAT-Seg's program can load:
    python scripts/convert_checkpoint.py runs/vitb catseg.pth --to catseg --merge
  The two towers alone, for transformers:
    python scripts/convert_checkpoint.py runs/vitb clip_directory --to hf_clip --merge

The layout of SRC is recognised from the names of its tensors; a file that lacks some, has others or has wrong shapes is
refused with a list of the differences. Nothing is written until everything has been read and checked, and DST is never
overwritten. Torch files need `pip install 'ahs_seg_jax[convert]'`; safetensors, npz and TorchScript archives do not.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a .pth, .pt, .bin, .safetensors or .npz file, a Hugging Face directory or hub name, a converted "
        "directory, or a training workdir",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        help="a new directory (orbax, hf_clip), or a new file ending with .pth, .safetensors or .npz (other formats)",
    )
    parser.add_argument(
        "--to",
        choices=("orbax", *LAYOUTS),
        default="orbax",
        help="format of DST: orbax, for this program (default), or another program's",
    )
    parser.add_argument(
        "--merge", action="store_true", help="fold the rotations into the attention weights; outputs stay the same"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the conversion; returns the exit status."""
    options = parse(arguments)
    return command.convert(options.source, options.destination, options.to, options.merge)


if __name__ == "__main__":
    sys.exit(main())
