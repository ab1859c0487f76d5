"""Every training-free last block as StableHLO: the exported program gives the model's own numbers."""

import jax
import numpy as np
import pytest
from jax import export as jax_export

from ahs_seg_jax.export import stablehlo
from ahs_seg_jax.export.programs import Program, programs
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.training_free import METHODS, TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from tests.support.training_free import SMALL, small_clip, small_goldens

MORE = {"sc_clip": {"sc_clip_blocks": (0, 0, 0, 1)}}  # there are none for two blocks


def image_side(method: str) -> tuple[Program, dict[str, np.ndarray]]:
    """The program from windows and text to cosines, and the weights."""
    model = TrainingFreeCLIP(SMALL, TrainingFree(method, **MORE.get(method, {})))
    leaves = {name: np.asarray(leaf) for name, leaf in parameters.flatten(small_clip())}
    return programs(model, baked=False)["segment"], leaves


def given(method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two windows of the photograph, the text, and the model's own cosines of them."""
    image, text = small_goldens().stored["image"], small_goldens().stored["text"][:, None]
    windows = np.stack([image[:48, :48], image[5:, 23:]]).astype(np.float32)
    model = TrainingFreeCLIP(SMALL, TrainingFree(method, **MORE.get(method, {})))

    @jax.jit
    def cosines(params, windows, text):
        dense = model.apply({"params": params}, windows, method="encode_image")["dense"]
        return model.apply({"params": params}, dense, text, method="compare")

    return windows, text, np.asarray(cosines(small_clip(), windows, text))


@pytest.mark.parametrize("method", METHODS)
def test_as_stablehlo(method):
    pytest.importorskip("flatbuffers")
    program, leaves = image_side(method)
    exported = jax_export.deserialize(bytearray(stablehlo.stablehlo(program, leaves)))
    windows, text, expected = given(method)
    found = np.asarray(exported.call(leaves, windows, text))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(exported.call(leaves, windows[1:], text[:3]), expected[1:, :3], atol=1e-5)
