"""Initial values at the published sizes: PyTorch's rule for every fresh parameter, and PyTorch's own modules."""

import functools
import re

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.models import architecture, initial, parameters

# What §5 and §7 of the method say, in place of the rule: name -> value of all its numbers (e: joint embedding).
CONSTANT = {
    r".*(norm|ln)_?[a-z0-9]*/scale": lambda e: 1.0,
    r".*(norm|ln)_?[a-z0-9]*/bias": lambda e: 0.0,
    r"aggregator/layers_\d/class/padding_(token|guidance)": lambda e: 0.0,
    r"mh_fpn/level_\d/radius": lambda e: e**0.5,
    r"mh_fpn/fusion_weights": lambda e: 0.0,
    r"dc_hsp/radius": lambda e: e**0.5,
    r"dc_hsp/text/scale": lambda e: 0.1,
    r"dc_hsp/text/b": lambda e: 0.0,
}
TRANSPOSED = r"guidance_up_\d|aggregator/decoder_\d/up"


def constant(name, embed_dim):
    return next((value(embed_dim) for pattern, value in CONSTANT.items() if re.fullmatch(pattern, name)), None)


def fan_in(name, shapes):
    """Of the linear map or convolution that a kernel or bias belongs to."""
    owner, _, last = name.rpartition("/")
    shape = shapes[f"{owner}/kernel"] if last in ("kernel", "bias") else shapes[name]
    sides, (features_in, features_out) = shape[:-2], shape[-2:]
    return int(np.prod(sides)) * (features_out if re.fullmatch(TRANSPOSED, owner) else features_in)


@functools.cache
def fresh(size):
    """Name -> values of every parameter outside CLIP, whose weights are read. XLA computes no others."""
    experiment = Experiment(seed=7, model=architecture.PRESETS[size]())

    def outside_clip():
        params = starting.fresh_params(experiment)
        return {name: leaf for name, leaf in parameters.flatten(params) if not name.startswith("clip/")}

    options = {"xla_backend_optimization_level": 0}
    return {name: np.asarray(x) for name, x in jax.jit(outside_clip, compiler_options=options)().items()}


def test_every_fresh_parameter_is_as_pytorch_draws_it():
    values, embed_dim = fresh("vitb16"), architecture.vitb16().embed_dim
    shapes = {name: x.shape for name, x in values.items()}
    assert len(values) > 100
    for name, x in values.items():
        if (expected := constant(name, embed_dim)) is not None:
            np.testing.assert_allclose(x, expected, rtol=1e-6, err_msg=name)
            continue
        bound = fan_in(name, shapes) ** -0.5
        assert np.abs(x).max() <= bound, name
        # The standard deviation of n uniform numbers has a relative spread of 0.45 / sqrt(n); their mean, of 1 /
        # sqrt(n).
        std, count = bound / 3**0.5, x.size
        if count > 1:
            assert abs(np.sqrt((x**2).mean()) / std - 1) < 5 * 0.45 / count**0.5 + 1e-3, name
        assert abs(x.mean()) < 5 * std / count**0.5, name
        assert np.abs(x).max() > bound * (1 - 12 / count), name


def test_kernels_of_different_parts_differ():
    """Two equal kernels of one shape would learn alike."""
    kernels = [x.tobytes() for name, x in fresh("vitb16").items() if constant(name, 512) is None]
    assert len(set(kernels)) == len(kernels)


def module(torch, entry):
    """PyTorch's module whose weight has the shape that a checkpoint's file has."""
    first, second, *side = entry.shape
    if entry.transform == "linear":
        return torch.nn.Linear(second, first)
    if entry.transform == "conv_transpose":
        return torch.nn.ConvTranspose2d(first, second, side, stride=side)
    depthwise = entry.target.endswith("depthwise/kernel")
    return torch.nn.Conv2d(first if depthwise else second, first, side, groups=first if depthwise else 1)


def test_pytorch_modules_of_the_same_shapes_have_the_same_spread():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    values = fresh("vitb16")
    table = [e for e in layouts.entries("ahs_seg", architecture.vitb16()) if e.target in values]
    weights = [
        e for e in table if e.transform in ("linear", "conv", "conv_transpose") and constant(e.target, 512) is None
    ]
    assert len(weights) > 40
    for entry in weights:
        theirs, name = module(torch, entry), entry.target
        drawn = {name: theirs.weight}
        if (bias := name.removesuffix("kernel") + "bias") in values:
            drawn[bias] = theirs.bias
        for target, tensor in drawn.items():
            expected, found = tensor.detach().numpy(), values[target]
            if found.size < 100:
                continue
            spread = 5 * 0.45 * (2 / found.size) ** 0.5
            np.testing.assert_allclose(found.std(), expected.std(), rtol=spread, err_msg=target)
            np.testing.assert_allclose(
                np.abs(found).max(), np.abs(expected).max(), rtol=24 / found.size, err_msg=target
            )


def test_the_set_for_training_from_nothing_is_what_the_small_models_start_from():
    """Zero biases, except that of the correlation's embedding; kernels of LeCun's size; the identity as projection."""
    values = dict(fresh("tiny"))
    embedding = values.pop("aggregator/correlation_embedding/bias")
    assert 0.2 < embedding.std() < 0.8
    assert all(not x.any() for name, x in values.items() if name.endswith("/bias"))
    for tower in ("image", "text"):
        np.testing.assert_array_equal(values[f"dc_hsp/{tower}/base"], np.eye(64))
    kernel = values["aggregator/appearance_guidance/kernel"]
    np.testing.assert_allclose(kernel.std(), (9 * 64) ** -0.5, rtol=0.05)


def test_parameters_that_are_there_are_handed_out_without_their_initializer():
    """Flax traces the initializer of a parameter that is there, too, which took most of the time of tracing a model."""

    def forbidden(key, shape, dtype=jnp.float32):
        raise AssertionError("the initializer was called")

    declared = initial.Parameters({"kernel": (forbidden, (2, 3)), "bias": (forbidden, (3,))})
    given = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    found = declared.apply({"params": given})
    assert all(found[name] is given[name] for name in given)
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r"shape \(2, 3\), .* has shape \(3, 2\)"):
        declared.apply({"params": given | {"kernel": jnp.zeros((3, 2))}})
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        declared.apply({"params": {"bias": given["bias"]}})
