"""What the model knows of the devices it runs on."""

import types

import numpy as np
import pytest

from ahs_seg_jax.models import sharding


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_mesh_says_what_its_devices_are(platform):
    device = types.SimpleNamespace(platform=platform)
    assert sharding.is_tpu(types.SimpleNamespace(devices=np.array([[device]]))) == (platform == "tpu")
    assert not sharding.is_tpu()  # JAX's own, here
