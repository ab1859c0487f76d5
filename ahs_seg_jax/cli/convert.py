"""`ahs-seg convert`: checkpoints of other programs to this one's format, and back."""

import os
import pathlib
import sys
from typing import Annotated, Literal

import typer

from ahs_seg_jax.cli import options


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help=options.CHECKPOINTS.capitalize())],
    destination: Annotated[pathlib.Path, typer.Argument(metavar="DST", help="A new folder or file.")],
    to: Annotated[
        Literal["orbax", "ahs_seg", "catseg", "openai_clip", "hf_clip"],
        typer.Option(help="Format of DST: orbax, for this program, or another program's."),
    ] = "orbax",
    merge: Annotated[bool, typer.Option("--merge", help="Fold the rotations into the weights.")] = False,
    activation: options.Activation = None,
) -> None:
    """Converts checkpoints of CLIP, CAT-Seg, AHS-Seg.

    To this program's format, and back.

    \b
    CAT-Seg's published model, ready for training and evaluation here:
      ahs-seg convert model_base.pth catseg_base
    OpenAI's CLIP, and the same weights from the Hugging Face hub:
      ahs-seg convert ViT-B-16.pt clip_b
      ahs-seg convert openai/clip-vit-base-patch16 clip_b
    What was trained here, as a file for the PyTorch program AHS-Seg:
      ahs-seg convert runs/vitb ahs_seg.pth --to ahs_seg
    The same with the rotations folded in, which CAT-Seg's program can load:
      ahs-seg convert runs/vitb catseg.pth --to catseg --merge
    The two towers alone, for transformers:
      ahs-seg convert runs/vitb clip_directory --to hf_clip --merge

    The layout of SRC is recognised from the names of its tensors; a file that lacks some, has others or has wrong
    shapes is refused with a list of the differences. Nothing is written until everything has been read and checked, and
    DST is never overwritten. It is a folder for orbax and hf_clip, else a file ending with .pth, .safetensors or .npz.
    Only writing a .pth needs pip install 'ahs_seg_jax[convert]'. A CLIP's tensors do not show whether it computes
    QuickGELU (OpenAI) or GELU (LAION, DataComp): where no config.json or open_clip_config.json beside the file says so,
    --activation does.
    """
    options.finish(lambda: run(source, destination, to, merge, activation))


def show_progress(done: int, total: int) -> None:
    """One line that counts up on a terminal; a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        print(f"\rreading: {done}/{total} tensors", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(total // 10, 1) == 0:
        print(f"reading: {done}/{total} tensors", file=sys.stderr, flush=True)


def run(source: str, destination: str | os.PathLike[str], to: str, merge: bool, activation: str | None = None) -> None:
    """Converts, and says what was read and what is left out. Raises CheckpointError or OSError."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it needs no accelerator, and must not take one
    from ahs_seg_jax.checkpoints import pretrained

    manifest = pretrained.convert_checkpoint(
        source, destination, to=to, merge=merge, progress=show_progress, activation=activation
    )
    read = manifest["source"]
    print(f"{read['path']} ({read.get('layout')}, sha256 {read.get('sha256', 'none')[:16]})")
    for field, fact in read.get("stated", {}).items():
        if field in ("activation", "pixel_mean"):
            print(f"  {field} {fact['value']}, stated by {fact['by']}")
    for part, numbers in manifest["statistics"].items():
        spread = f"mean {numbers['mean']:+.3e}  std {numbers['std']:.3e}"
        print(f"  {part:24} {numbers['parameters']:>12,} parameters  {spread}")
    if left_out := manifest["written"]["left_out"]:
        print(f"  left out, as {to} has no place for it: {len(left_out)} parameters of the rest of the model")
    print(f"written: {destination}")
