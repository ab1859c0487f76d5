"""From downloads to results: miniature trees of two benchmarks, prepared and evaluated with one model."""

import json

import numpy as np
import pytest

from ahs_seg_jax.config import RANDOM_INIT, DataConfig, EvalConfig, Experiment
from ahs_seg_jax.errors import Ending, InputError
from ahs_seg_jax.evaluation import run
from ahs_seg_jax.models.architecture import tiny
from tests.support import trees
from tests.support.commands import data_command


@pytest.fixture
def root(stand_in, tmp_path):
    """The folder of the downloads, both benchmarks prepared; a stand-in for the model."""
    trees.voc(tmp_path, {f"2007_{k:06d}": trees.rows([0, k, 20, 255]) for k in range(1, 5)})
    trees.ade20k_150(tmp_path, {f"ADE_val_{k:08d}": trees.rows([0, k, 150]) for k in range(1, 4)})
    data_command(["prepare", "voc_20b", "ade20k_150", "--root", str(tmp_path), "--partial", "--jobs", "1"])
    return tmp_path


def experiment(root, **changes) -> Experiment:
    return Experiment(
        init=RANDOM_INIT,
        mode="eval",
        model=tiny().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
        data=DataConfig(name="scenes", root=str(root)),
        eval=EvalConfig(benchmarks=("voc_20b", "ade20k_150"), pictures=2, **changes),
    )


def test_from_downloads_to_results(root, tmp_path):
    # Four images are no PASCAL VOC: the doctor refuses them.
    with pytest.raises(InputError, match=r"(?s)voc_20b: the data are not what they should be.*ade20k_150: the data"):
        run.evaluate_benchmarks(experiment(root), tmp_path / "run")
    bad = experiment(root, allow_bad_data=True, save_predictions="png")
    assert run.evaluate_benchmarks(bad, tmp_path / "run") == Ending.FINISHED
    results = tmp_path / "run" / "results"
    voc = json.loads((results / "voc_20b_val.json").read_text())
    assert (voc["vocabulary"]["classes"], voc["scored_vocabulary"]["classes"]) == (59, 21)
    assert voc["classes"][-1]["name"] == "background"
    # Columns of five pixels: class k - 1 once each, class 19 in every image, background in every image.
    pixels = np.array([row["pixels"] for row in voc["classes"]])
    np.testing.assert_array_equal(pixels[[*range(4), 19, 20]], [5, 5, 5, 5, 20, 20])
    assert pixels.sum() == 60
    ade = json.loads((results / "ade20k_150_val.json").read_text())
    assert ade["scored_vocabulary"] is None
    assert ade["data"]["images"] == 3
    assert ade["data"]["problems"]
    assert (results / "ade20k_150_val_predictions" / "ADE_val_00000002.png").is_file()
