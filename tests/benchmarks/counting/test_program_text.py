"""A compiled program's text, taken apart: how often what runs, and what lies where."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.counting import program_text

# As the TPU compiler writes it: no word on how often a loop runs, layouts with tiles, S(1) for the fast memory.
PROGRAM = """HloModule m

%fused (p: f32[3]) -> f32[3] {
  %p = f32[3]{0:T(128)} parameter(0)
  ROOT %twice = f32[3]{0:T(128)} add(%p, %p)
}

%body (state: (s32[], f32[3])) -> (s32[], f32[3]) {
  %state = (s32[]{:T(128)}, f32[3]{0:T(128)S(1)}) parameter(0)
  %x = f32[3]{0:T(128)S(1)} get-tuple-element(%state), index=1
  %y = f32[3]{0:T(128)S(1)} fusion(%x), kind=kLoop, calls=%fused
  ROOT %next = (s32[]{:T(128)}, f32[3]{0:T(128)S(1)}) tuple(%i, %y)
}

%condition (state: (s32[], f32[3])) -> pred[] {
  %limit = s32[]{:T(128)} constant(19)
  %state = (s32[]{:T(128)}, f32[3]{0:T(128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[3]) -> f32[3] {
  %a = f32[3]{0:T(128)} parameter(0)
  %loop = (s32[]{:T(128)}, f32[3]{0:T(128)S(1)}) while(%start), condition=%condition, body=%body
  ROOT %end = f32[3]{0:T(128)} fusion(%a), kind=kLoop, calls=%fused
}
"""


def test_loop_of_a_tpu_program_runs_up_to_the_number_in_its_condition():
    computations, entry = program_text.parse(PROGRAM)
    assert entry == "main"
    assert program_text.runs(computations, entry) == {"main": 1, "body": 19, "condition": 19, "fused": 20}
    other, entry = program_text.parse(PROGRAM.replace("direction=LT", "direction=GT"))
    assert program_text.runs(other, entry, unknown=7)["body"] == 7


def test_what_lies_in_the_fast_memory_is_told_from_the_rest():
    computations, _ = program_text.parse(PROGRAM)
    loop = computations["main"][1]
    assert loop.arrays == [(4, True), (12, False)]
    assert (loop.size, loop.whole) == (4, 16)


@pytest.mark.parametrize("length", [7, 13])
def test_loop_of_a_real_program(length):
    def f(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x, None, length=length)[0]

    computations, entry = program_text.parse(jax.jit(f).lower(jnp.ones(3)).compile().as_text())
    assert length in program_text.runs(computations, entry).values()
