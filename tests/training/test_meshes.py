"""The same training step, all components on, on several meshes of eight forced devices, in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT
from tests.support.xla_flags import xla_flags

# c: classes in chunks; t: arranged as for TPUs
MESHES = ("1,1,1", "4,1,2", "2,2,2c", "2,2,2t")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{mesh: {name: value}} after one step on each."""
    path = tmp_path_factory.mktemp("meshes") / "steps.npz"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(8)}
    command = [sys.executable, "-m", "tests.support.mesh_worker", str(path), *MESHES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, np.ndarray]] = {mesh: {} for mesh in MESHES}
    for key, value in np.load(path).items():
        mesh, name = key.split(":", 1)
        found[mesh][name] = value
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES[1:])
def test_step_is_the_same_on_every_mesh(steps, mesh):
    alone, several = steps[MESHES[0]], steps[mesh]
    assert set(alone) == set(several)
    assert {name for name in alone if name.startswith("loss/")} == {
        *("loss/total", "loss/segmentation", "loss/energy", "loss/boundary", "loss/contrastive", "loss/hierarchy")
    }
    for name, expected in alone.items():
        found, kind = several[name], name.split("/")[0]
        if kind == "moment":  # a tenth of the gradient
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-9, err_msg=name)
        elif kind in ("params", "ema"):
            # Adam's first step has the size of the rate in the direction of the gradient's sign: where that is rounding
            # alone (biases of keys, rows of unused tokens), the direction is chance. Near Adam's epsilon of 1e-8 the
            # size depends on the gradient, too.
            moment = np.abs(alone[f"moment/{name.removeprefix(kind + '/')}"])
            sure = moment > 1e-7 + 1e-3 * moment.max()
            np.testing.assert_allclose(found[sure], expected[sure], rtol=0, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
