"""The component ablation on the recipe of `tiny.py`: drawn scenes, a small model, one variant a row.

    python -m ahs_seg_jax.main --config=configs/ablation.py:none --workdir=runs/ablation_none
    python -m ahs_seg_jax.main --config=configs/ablation.py:smoke --workdir=runs/ablation_smoke
    python scripts/run_ablations.py --config=configs/tiny.py --seeds 0 1 2 --workdir=runs/ablations

Variants: none, ha_hem, mh_fpn, dc_hsp, ha_hem_mh_fpn, all (the same as ""), and smoke, which is `all` in a few steps.
The script runs all of them, with several seeds, on this or any other configuration. Such small studies say little about
the model at its published size. Hardware, time and score: `docs/ablation.md`.
"""

import pathlib

import ml_collections

from ahs_seg_jax.config import ablation, command_line, loading


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", the rows of the ablation, and "smoke"."""
    base = loading.module(pathlib.Path(__file__).with_name("tiny.py")).experiment()
    rows = {row: ablation.ablated(base, row) for row in ablation.ROWS}
    return command_line.select(variant, {"": rows["all"], **rows, "smoke": command_line.smoke(rows["all"])})
