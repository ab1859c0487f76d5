"""Real programs as a GPU's compiler gets them: nothing calls the host, and in bfloat16 little is float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.inference import labelling, mosaic, pass_programs
from ahs_seg_jax.inference.protocols import CAT_SEG
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.training_free import TrainingFree
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.training import step
from benchmarks.lowered import Operation, lowered, place, report
from tests.support.small import random_params, small_model
from tests.support.training import batch, experiment, tokens

# What stays in float32 where activations are bfloat16, and why.
TRAINING = {
    # Rotations, of few and small matrices: their inverse and their energy need the digits.
    "models/ops/inverse.py _product",
    "models/orthogonal.py OrthogonalAdaptation._mixed",
    "models/orthogonal.py cayley",
    "models/orthogonal.py energy",
    "models/orthogonal.py rotate",
    # Close classes differ by less than bfloat16 tells apart.
    "models/ahs_seg.py AHSSeg.correlate",
    "models/arrangement.py _embed_by_product",
    # Sums over up to 256 classes, and the division by one of them.
    "models/class_layer.py _sums",
    "models/class_layer.py attend",
    # Kernels alone, once for all classes.
    "models/decoder.py joined_kernel",
    # Few numbers, and the losses that divide by small ones.
    "models/dc_hsp.py DCHSP.__call__",
    "models/dc_hsp.py Complexity.__call__",
    "training/losses.py _boundary_at",
    "training/losses.py _near_unlabelled",
    "training/losses.py class_prototypes",
    "training/losses.py contrastive_loss",
}
# The same of training-free methods: cosines, and methods that compare tokens or turn keys towards queries.
COSINES = {"inference/mosaic.py mapped", "models/training_free/model.py TrainingFreeCLIP.compare"}
METHODS = {
    "naclip": set(),
    "sc_clip": {"models/training_free/sc_clip.py _similarity", "models/training_free/sc_clip.py outliers"},
    "pearl": {"models/training_free/pearl.py _rotation", "models/training_free/pearl.py attention"},
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def test_place_by_hand():
    inner = '"linear"("/a/ahs_seg_jax/models/layers.py":33:4 to :9)'
    outer = '"Head.run.<locals>.go"("/a/ahs_seg_jax/models/decoder.py":5:4 to :9)'
    assert place(f"loc(callsite({inner} at callsite({outer} at x)))") == "models/decoder.py Head.run"
    assert place(f"loc({inner})") == "models/layers.py linear"
    assert place('loc("jit(f)/add"("/a/other.py":1:2))') == "elsewhere"
    assert Operation("dot_general", "", ("tensor<5x7xbf16>", "tensor<7xf32>")).wide
    assert not Operation("dot_general", "", ("tensor<5x7xbf16>", "tensor<7xbf16>")).wide
    assert Operation("transpose", "", ("tensor<5x7xbf16>",)).size == 35


def test_what_leaves_the_device_is_seen():
    def prints(x):
        jax.debug.print("{x}", x=x)
        return x.T @ x

    found = lowered(prints, jax.ShapeDtypeStruct((3, 5), np.float32), platform="cpu")
    assert len(found.to_host) == 1
    assert (len(found.products), len(found.transposes), found.products[0].wide) == (1, 1, True)
    assert "to the host: " + found.to_host[0] in report("f", found)
    with pytest.raises(ValueError, match="backend cpu is different from the lowering platform cuda"):
        lowered(prints, jax.ShapeDtypeStruct((3, 5), np.float32))


def test_training_step():
    config = experiment(small_model(dtype="bfloat16", class_chunk=2, remat="cheap", aggregator__window=3))
    mesh = make_mesh(jax.devices()[:1], config.mesh)
    state = step.abstract_state(config, mesh)
    found = lowered(step.jitted_step(config, None, mesh, state), state, shapes(batch()), shapes(tokens()))
    assert found.to_host == ()
    assert sum(not one.wide for one in found.products) > 50
    assert found.wide_places().keys() == TRAINING


def test_inference_in_one_program_and_in_passes():
    config = small_model(dtype="bfloat16", adaptation="none", mh_fpn=False, dc_hsp=False)
    params, model = shapes(random_params(config)), AHSSeg(config)
    views, text = jax.ShapeDtypeStruct((5, 24, 24, 3), np.float32), jax.ShapeDtypeStruct((7, 1, 16), np.float32)
    whole = lowered(functools.partial(pass_programs.segment_all, model), params, views, text)
    words = lowered(functools.partial(pass_programs.encode_text, model), params, shapes(tokens()))
    taps = [labelling._output_taps(CAT_SEG, 24, (61, 83))]
    before = jnp.zeros((128, 128), jnp.int32), jnp.zeros((128, 128), jnp.float32)
    label = functools.partial(labelling._best_of_all, protocol=CAT_SEG, step=labelling.step_of(128, 128, "cuda"))
    logits = jax.ShapeDtypeStruct((5, 7, 24, 24), np.float32)
    labels = lowered(label, logits, jax.ShapeDtypeStruct((), np.int32), before, *taps[0])
    assert [one.to_host for one in (whole, words, labels)] == [()] * 3
    assert whole.wide_places().keys() <= TRAINING
    assert {"models/ahs_seg.py AHSSeg.correlate", "models/class_layer.py attend"} <= whole.wide_places().keys()
    assert words.wide_places() == {}
    assert labels.loops <= 2, "one step over classes, one over rows"


@pytest.mark.parametrize("method", METHODS)
def test_training_free(method):
    config = small_model(dtype="bfloat16", adaptation="none", image__layers=12, guidance_taps=(3, 7))
    params = {"clip": shapes(random_params(config)["clip"])}
    model = TrainingFreeCLIP(config, TrainingFree(method))

    def run(params, views, text, rows, columns):
        both = lambda m: m.compare(m.encode_image(views)["dense"], text)
        return mosaic.mapped(model.apply({"params": params}, method=both), rows, columns)

    views, text = jax.ShapeDtypeStruct((4, 24, 24, 3), np.float32), jax.ShapeDtypeStruct((7, 1, 16), np.float32)
    matrix = jax.ShapeDtypeStruct((37, 2, 6), np.float32)
    found = lowered(run, params, views, text, matrix, matrix)
    assert found.to_host == ()
    assert found.wide_places().keys() == COSINES | METHODS[method]
