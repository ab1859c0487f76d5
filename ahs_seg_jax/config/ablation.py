"""The six rows of the component ablation, as changes to any experiment.

Row `none` is the model without components. What learns inside CLIP stays the experiment's own. If that is the rotations
(`train.finetune` orthogonal or orthogonal_biases), a row without HA-HEM keeps plain ones, as in the published ablation.
"""

import dataclasses

from ahs_seg_jax.config.experiment import Experiment

# Row -> (HA-HEM, MH-FPN, DC-HSP)
ROWS = {
    "none": (False, False, False),
    "ha_hem": (True, False, False),
    "mh_fpn": (False, True, False),
    "dc_hsp": (False, False, True),
    "ha_hem_mh_fpn": (True, True, False),
    "all": (True, True, True),
}


def changes(experiment: Experiment, row: str) -> dict[str, str | bool]:
    """The fields that make `experiment` one of ROWS, by path, such as `model.mh_fpn`.

    Raises ValueError for another row.
    """
    if row not in ROWS:
        raise ValueError(f"there is no ablation row {row!r}; choose one of {', '.join(ROWS)}")
    ha_hem, mh_fpn, dc_hsp = ROWS[row]
    without = "orthogonal" if experiment.train.finetune.startswith("orthogonal") else "none"
    return {"model.adaptation": "ha_hem" if ha_hem else without, "model.mh_fpn": mh_fpn, "model.dc_hsp": dc_hsp}


def ablated(experiment: Experiment, row: str) -> Experiment:
    """The experiment as that row, called `<name>_<row>`."""
    fields = {path.removeprefix("model."): value for path, value in changes(experiment, row).items()}
    model = dataclasses.replace(experiment.model, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(experiment, name=f"{experiment.name}_{row}", model=model)
