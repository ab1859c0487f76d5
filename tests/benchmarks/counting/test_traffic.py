"""Bytes from a compiled program's text: by hand, and as XLA counts them where there is no loop."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.counting import traffic

PROGRAM = """HloModule jit_f, is_scheduled=true

%sliced (param_0: f32[7,4], param_1: s32[]) -> f32[4] {
  %param_0 = f32[7,4]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,4}
  ROOT %flat = f32[4]{0} bitcast(%row)
}

%body (state: (s32[], f32[7,4])) -> (s32[], f32[7,4]) {
  %state = (s32[], f32[7,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %all = f32[7,4]{1,0} get-tuple-element(%state), index=1
  %one = f32[4]{0} fusion(%all, %i), kind=kLoop, calls=%sliced
  ROOT %next = (s32[], f32[7,4]{1,0}) tuple(%i, %all)
}

%condition (state: (s32[], f32[7,4])) -> pred[] {
  %state = (s32[], f32[7,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: bf16[3,5], b: f32[7,4]) -> bf16[3,5] {
  %a = bf16[3,5]{1,0} parameter(0)
  %b = f32[7,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[7,4]{1,0}) tuple(%zero, %b)
  %loop = (s32[], f32[7,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config=TRIPS
  ROOT %sum = bf16[3,5]{1,0} add(%a, %a), metadata={op_name="jit(f)/add"}
}
"""
KNOWN = '{"known_trip_count":{"n":"7"}}'
SUM = 3 * 15 * 2  # two operands and a result of fifteen bfloat16 numbers
ONE_PASS = 16 + 16 + 4  # a row read, written, and its index


@pytest.mark.parametrize(("trips", "passes"), [(KNOWN, 7), ("{}", 1)])
def test_by_hand(trips, passes):
    program = PROGRAM.replace("TRIPS", trips)
    assert traffic.bytes_moved(program) == SUM + passes * ONE_PASS


def test_slices_are_found_in_fusions_within_fusions():
    """A product whose operand is a row of an array, sliced in a fusion of its own."""
    outer = """
%product (param_2: f32[7,4], param_3: s32[]) -> f32[4] {
  %param_2 = f32[7,4]{1,0} parameter(0)
  %param_3 = s32[] parameter(1)
  %row = f32[4]{0} fusion(%param_2, %param_3), kind=kLoop, calls=%sliced
  ROOT %twice = f32[4]{0} add(%row, %row)
}

%body"""
    program = (
        PROGRAM.replace("TRIPS", KNOWN)
        .replace("\n%body", outer, 1)
        .replace("calls=%sliced\n  ROOT %next", "calls=%product\n  ROOT %next")
    )
    assert traffic.bytes_moved(program) == SUM + 7 * ONE_PASS
    whole = program.replace("add(%row, %row)", "add(%row, %param_2)")  # all of it is read as well
    assert traffic.bytes_moved(whole) == SUM + 7 * (7 * 16 + 16 + 4)


def test_update_in_place_counts_the_update():
    program = """HloModule m

%written (param_0: f32[9,4], param_1: f32[1,4], param_2: s32[]) -> f32[9,4] {
  %param_0 = f32[9,4]{1,0} parameter(0)
  %param_1 = f32[1,4]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  ROOT %new = f32[9,4]{1,0} dynamic-update-slice(%param_0, %param_1, %param_2, %param_2)
}

ENTRY %main (a: f32[9,4], b: f32[1,4], i: s32[]) -> f32[9,4] {
  %a = f32[9,4]{1,0} parameter(0)
  %b = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %all = f32[9,4]{1,0} fusion(%a, %b, %i), kind=kLoop, calls=%written
}
"""
    assert traffic.bytes_moved(program) == 16 + 16 + 16 + 4  # into place, the update twice as operands, the index


def test_fast_memory_counts_when_it_is_filled():
    program = """HloModule m

ENTRY %main (a: f32[9,4]) -> f32[9,4] {
  %a = f32[9,4]{1,0:T(8,128)} parameter(0)
  %room = f32[500]{0:T(128)} custom-call(), custom_call_target="AllocateBuffer"
  %start = (f32[9,4]{1,0:T(8,128)S(1)}, f32[9,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %done = f32[9,4]{1,0:T(8,128)S(1)} copy-done(%start)
  %near = f32[9,4]{1,0:T(8,128)S(1)} add(%done, %done)
  %row = f32[1,4]{1,0:T(8,128)S(1)} slice(%a), slice={[0:1], [0:4]}
  %rows = ((f32[9,4]{1,0:T(8,128)}), f32[2,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:4]}
  ROOT %sum = f32[9,4]{1,0:T(8,128)} add(%near, %done)
}
"""
    assert traffic.bytes_moved(program) == 144 + 16 + 32 + 144  # copied there; a row; two; the result


def test_agrees_with_xla_without_loops():
    def f(x, w):
        return jnp.tanh(x @ w).sum(0)

    compiled = jax.jit(f).lower(jnp.ones((64, 128)), jnp.ones((128, 32))).compile()
    assert traffic.bytes_moved(compiled.as_text()) == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.05
    )


def test_loops_of_a_real_program_count_as_often_as_they_run():
    def f(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=50)[0]

    compiled = jax.jit(f).lower(jnp.ones((64, 128)), jnp.ones((128, 128))).compile()
    once = 4 * (2 * 64 * 128 + 128 * 128)
    assert traffic.bytes_moved(compiled.as_text()) > 50 * once
    assert compiled.cost_analysis()["bytes accessed"] < 10 * once
