"""The programs for an NVIDIA GPU, lowered on a machine that has none: they can be, and take the branches for GPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.models import layers
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.training import step
from tests.support.images import photo
from tests.support.small import inference_model, random_params, small_model
from tests.support.training import batch, experiment, tokens

# A convolution that gives the gradient of a kernel: the batch is summed over. On a CPU products do that.
KERNEL_GRADIENT = "dim_numbers = [f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]"
# A convolution with one row more than needed, which a CPU computes on all cores.
ROW_MORE = "window = {pad = [[2, 1], [1, 1]]}"


def lowered(platform: str, jitted, *args, **options) -> str:
    """The text of the program for a platform."""
    return jax.export.export(jitted, platforms=[platform])(*args, **options).mlir_module()


def assert_runs_alone(text: str) -> None:
    """No step of the program is done by Python."""
    called = re.findall(r"custom_call @(\w+)", text)
    assert not [name for name in called if "callback" in name or "python" in name]
    assert "callback" not in text


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_convolution_in_a_loop_goes_the_way_of_the_platform(platform):
    x, kernel = jax.ShapeDtypeStruct((2, 7, 11, 5), "float32"), jax.ShapeDtypeStruct((3, 3, 5, 4), "float32")
    loss = lambda x, kernel: jnp.square(layers.conv_same(x, {"kernel": kernel}, in_loop=True)).sum()
    text = lowered(platform, jax.jit(jax.grad(loss, argnums=(0, 1))), x, kernel)
    counts = {part: text.count(part) for part in (ROW_MORE, KERNEL_GRADIENT, "stablehlo.dot_general")}
    assert list(counts.values()) == ([2, 0, 3] if platform == "cpu" else [0, 1, 0])
    assert_runs_alone(text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_step(dtype):
    config = experiment(small_model(dtype=dtype, class_chunk=2, remat="cheap"))
    mesh = make_mesh(jax.devices()[:1])
    state = step.abstract_state(config, mesh)
    text = lowered("cuda", step.jitted_step(config, None, mesh, state), state, batch(), tokens())
    assert KERNEL_GRADIENT in text
    assert ROW_MORE not in text
    assert ("bf16" in text) == (dtype == "bfloat16")
    assert_runs_alone(text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inference(monkeypatch, dtype):
    """Every program that a call needs, with several passes of classes. None of them is run: results are zeros."""
    programs = {}

    def call(self, *args, **options):
        programs[self.name] = (self._jitted, args, options)
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._jitted.eval_shape(*args, **options))

    monkeypatch.setattr(Compiled, "__call__", call)
    config = inference_model(dtype=dtype, aggregator__layers=2, adaptation="none")
    segmenter = Segmenter(config, random_params(config))
    segmenter(photo(29, 37), [f"thing {index}" for index in range(19)], protocol="cat_seg", probabilities=True)
    assert set(programs) == {
        *("encode_text", "encode_image", "best_correlation", "prepare_decoder"),
        *("first_layer", "next_layer", "complete_sums", "last_layer", "probabilities", "label_map"),
        *("join", "take_rows", "put_classes", "take_classes"),
    }
    for name, (jitted, args, options) in programs.items():
        text = lowered("cuda", jitted, *args, **options)
        assert_runs_alone(text)
        assert ROW_MORE not in text, name
        if name not in ("put_classes", "take_classes", "probabilities", "label_map"):  # logits are float32
            assert ("bf16" in text) == (dtype == "bfloat16"), name
