"""The bound on memory: 847 classes on an image of 2000 x 3000 pixels, by windows, stay under 4 GB on a CPU."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.evaluation import score
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.vocabulary import Vocabulary
from benchmarks.memory import peak_process_bytes
from tests.support import ROOT

LIMIT_BYTES = 4e9
SIZE = (2000, 3000)


class OneImage:
    """One large image of noise with labels all over the vocabulary."""

    def __init__(self):
        self.vocabulary = Vocabulary.named("ade20k_847")

    def __len__(self):
        return 1

    def __getitem__(self, index):
        rng = np.random.default_rng(0)
        return {
            "image": rng.integers(0, 256, (*SIZE, 3), np.uint8),
            "label": rng.integers(-1, 847, SIZE).astype(np.int32),
        }

    def name(self, index):
        return "noise"

    def fingerprint(self):
        return {"images": 1}


@pytest.mark.slow
def test_many_classes_on_a_large_image():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, __file__]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pixels"] > 0.99 * SIZE[0] * SIZE[1]
    assert found["peak"] < LIMIT_BYTES


if __name__ == "__main__":
    model = packaged.load_tiny()
    weights = score.Weights(AHSSeg(model.config), model.params)
    scores = score.evaluate(weights, OneImage(), EvalConfig(protocol="cat_seg", pictures=0)).scores
    print(json.dumps({"peak": peak_process_bytes(), "pixels": int(scores.pixels.sum())}))
