"""An evaluation that is killed half-way, as by a machine that goes down: the same command continues it."""

import json
import os
import subprocess
import sys
import time

import pytest

from ahs_seg_jax.config import RANDOM_INIT, DataConfig, EvalConfig, Experiment
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.evaluation import run, tally
from ahs_seg_jax.models import ahs_seg
from ahs_seg_jax.models.architecture import tiny
from tests.support import ROOT, trees
from tests.support.standin import StandIn
from tests.support.xla_flags import xla_flags

# When the first image is saved and the kill comes, the others would take more than four seconds.
IMAGES = 24
SECONDS = "0.2"


@pytest.mark.slow
def test_a_killed_evaluation_is_continued(tmp_path):
    trees.voc(tmp_path, {f"2007_{k:06d}": trees.rows([0, 1 + k % 20, 20, 255]) for k in range(IMAGES)})
    trees.prepared(BENCHMARKS["voc_20b"], tmp_path)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, __file__, str(tmp_path)]
    killed = subprocess.Popen([*command, SECONDS, "killed"], env=environment)
    kept = tmp_path / "killed" / "results" / "voc_20b_val.partial.0.npz"
    while not kept.is_file():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed" / "results" / "voc_20b_val.json").exists()
    done = subprocess.run(
        [*command, "0", "killed", "whole"], env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    after = int(done.stdout.split("going on after ")[1].split()[0])
    assert 0 < after < IMAGES
    found, whole = (
        json.loads((tmp_path / name / "results" / "voc_20b_val.json").read_text()) for name in ("killed", "whole")
    )
    for key in ("scores", "classes", "data", "incomplete"):
        assert found[key] == whole[key]
    assert sum(row["pixels"] for row in found["classes"]) == IMAGES * 15
    predictions = [
        json.loads((tmp_path / name / "results/voc_20b_val_predictions/predictions.json").read_text())
        for name in ("killed", "whole")
    ]
    assert predictions[0] == predictions[1]
    assert {segment["image_id"] for segment in predictions[0]} == set(range(IMAGES))


def _evaluate(root: str, seconds: str, *workdirs: str) -> None:
    """What the processes do: evaluate into each workdir, `seconds` an image longer than it takes, saving often."""

    class Slow(PreparedSource):
        def __getitem__(self, index):
            time.sleep(float(seconds))
            return super().__getitem__(index)

    ahs_seg.AHSSeg = StandIn
    tally.SAVE_SECONDS = 0.0
    run.open_source = lambda settings, split: Slow(settings.root, settings.name, split)
    experiment = Experiment(
        init=RANDOM_INIT,
        mode="eval",
        model=tiny().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
        data=DataConfig(name="voc_20b", root=root, num_threads=1),
        eval=EvalConfig(pictures=0, save_predictions="coco", allow_bad_data=True),
    )
    for workdir in workdirs:
        run.evaluate_benchmarks(experiment, f"{root}/{workdir}")


if __name__ == "__main__":
    _evaluate(*sys.argv[1:])
