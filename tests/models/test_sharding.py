"""What the model knows of the devices it runs on."""

import types

import numpy as np
import pytest

from ahs_seg_jax.models import sharding


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_a_mesh_says_what_its_devices_are(platform):
    device = types.SimpleNamespace(platform=platform)
    assert sharding.platform(types.SimpleNamespace(devices=np.array([[device]]))) == platform
    assert sharding.platform() == "cpu"  # JAX's own, here
