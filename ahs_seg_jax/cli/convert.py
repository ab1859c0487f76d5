"""Conversion of checkpoints on the command line: progress, a table of what was converted, errors as one message."""

import os
import sys

from ahs_seg_jax import errors
from ahs_seg_jax.checkpoints import pretrained


def show_progress(done: int, total: int) -> None:
    """One line that counts up on a terminal; a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        print(f"\rreading: {done}/{total} tensors", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(total // 10, 1) == 0:
        print(f"reading: {done}/{total} tensors", file=sys.stderr, flush=True)


def convert(source: str, destination: str | os.PathLike[str], to: str, merge: bool) -> int:
    """Converts and says what it did; returns the exit status."""
    try:
        manifest = pretrained.convert_checkpoint(source, destination, to=to, merge=merge, progress=show_progress)
    except (errors.CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    read = manifest["source"]
    print(f"{read['path']} ({read.get('layout')}, sha256 {read.get('sha256', 'none')[:16]})")
    for part, numbers in manifest["statistics"].items():
        spread = f"mean {numbers['mean']:+.3e}  std {numbers['std']:.3e}"
        print(f"  {part:24} {numbers['parameters']:>12,} parameters  {spread}")
    if left_out := manifest["written"]["left_out"]:
        print(f"  left out, as {to} has no place for it: {len(left_out)} parameters of the rest of the model")
    print(f"written: {destination}")
    return 0
