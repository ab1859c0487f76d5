"""Matrix work by hand, and the same however the work is cut into loops."""

import jax
import jax.numpy as jnp
import pytest

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.ops import chunks
from benchmarks.counting import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_product_counts_two_for_each_multiply_add():
    assert flops.count(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == flops.Work(2 * 3 * 5 * 7)
    batched = flops.count(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(11, 3, 5), shape(11, 7, 5))
    assert batched.flops == 2 * 11 * 3 * 5 * 7


def test_loop_counts_as_often_as_it_runs():
    def looped(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=7)[0].sum()

    once = 2 * 3 * 5 * 5
    assert flops.count(looped, shape(3, 5), shape(5, 5)).flops == 7 * once
    # Backward: one product for the input and one for the weights.
    assert flops.count(jax.grad(looped, argnums=1), shape(3, 5), shape(5, 5)).flops == 3 * 7 * once


def test_loop_of_unknown_length_and_branches():
    def until_small(x, w):
        return jax.lax.while_loop(lambda c: c.sum() > 1, lambda c: c @ w, x)

    found = flops.count(until_small, shape(3, 5), shape(5, 5))
    assert found == flops.Work(flops.UNKNOWN_LOOP * 2 * 3 * 5 * 5, unknown_loops=1)

    def either(flag, x, w):
        return jax.lax.cond(flag, lambda: x, lambda: x @ w @ w)

    assert flops.count(either, jax.ShapeDtypeStruct((), bool), shape(3, 5), shape(5, 5)).flops == 2 * 2 * 3 * 5 * 5


def test_what_nobody_reads_is_not_counted():
    def wasteful(a, b):
        return {"used": a @ b, "unused": a @ b @ b}["used"]

    assert flops.count(wasteful, shape(3, 5), shape(5, 5)).flops == 2 * 3 * 5 * 5


def test_convolution_leaves_out_taps_on_padding():
    # Of 4 x 3 kernel positions along an axis of 4, two fall on padding: 10 taps an axis.
    same = flops.count(
        lambda x, k: layers.conv_same(x, {"kernel": k}),
        shape(2, 4, 4, 3),
        shape(3, 3, 3, 5),
    )
    assert same.flops == 2 * 2 * 10 * 10 * 3 * 5


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_agrees_with_xla_forward_and_backward(groups):
    def convolved(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        ).sum()

    x, kernel = shape(2, 7, 5, 3), shape(3, 3, 3 // groups, 6)
    forward = flops.count(convolved, x, kernel).flops
    analysis = jax.jit(convolved).lower(x, kernel).cost_analysis()
    assert forward == pytest.approx(analysis["flops"], rel=0.1)  # XLA counts the sum as well
    assert forward < analysis["flops"]


def test_chunks_do_not_change_the_work():
    w = shape(5, 5)

    def all_classes(chunk):
        def run(x, w):
            return chunks.over_classes(lambda part: part @ w, x, chunk=chunk)

        return flops.count(run, shape(2, 12, 3, 5), w).flops

    assert all_classes(0) == all_classes(4) == 2 * 2 * 12 * 3 * 5 * 5


def test_recomputation_is_counted():
    def loss(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

    plain = flops.count(jax.value_and_grad(loss), shape(5, 5), shape(3, 5)).flops
    again = flops.count(jax.value_and_grad(jax.checkpoint(loss)), shape(5, 5), shape(3, 5)).flops
    assert again > plain
