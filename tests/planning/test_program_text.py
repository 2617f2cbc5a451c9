"""How often what a compiled program's text says runs, and what it moves."""

import pytest

from aloe_jax.parallel.program_text import Program
from aloe_jax.planning.traffic import array_bytes, memory_traffic

LOOP = """HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%condition (state: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[] constant(%ROUNDS%)
  %state = (s32[], f32[8,128]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  ROOT %test = pred[] compare(%counter, %limit), direction=LT
}

%sliced (stack: f32[32,8,128], at: s32[]) -> f32[8,128] {
  %stack = f32[32,8,128] parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,8,128] dynamic-slice(%stack, %at, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %flat = f32[8,128] bitcast(%slice)
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[], f32[8,128]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %stack = f32[32,8,128] constant({...})
  %part = f32[8,128]{1,0:T(8,128)} fusion(%stack, %counter), kind=kLoop, calls=%sliced
  %kept = f32[8,128]{1,0:T(8,128)S(1)} negate(%part)
  %total = f32[8,128]{1,0:T(8,128)} all-reduce(%kept), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %one = s32[] constant(1)
  %next = s32[]{:S(6)} add(%counter, %one)
  ROOT %out = (s32[], f32[8,128]) tuple(%next, %total)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %first = s32[] constant(%FIRST%)
  %state = (s32[], f32[8,128]) tuple(%first, %x)
  %loop = (s32[], f32[8,128]) while(%state), condition=%condition, body=%body
  ROOT %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
ARRAY = 8 * 128 * 4


def program(rounds=5, first=0):
    return Program.read(LOOP.replace("%ROUNDS%", str(rounds)).replace("%FIRST%", str(first)))


@pytest.mark.parametrize(("rounds", "first", "times"), [(5, 0, 5), (1, 0, 1), (32, 2, 30)])
def test_a_loop_runs_as_often_as_its_condition_says(rounds, first, times):
    read = program(rounds, first)
    assert read.entry == "main"
    assert read.times["body"] == times
    assert read.times["sliced"] == times
    assert read.times["add"] == 0  # applied to elements
    assert [(name, n) for name, each, n in read.running() if each.opcode == "all-reduce"] == [("body", times)]


def test_a_limit_that_comes_from_outside_the_loop():
    inside = "%limit = s32[] constant(%ROUNDS%)\n  %state = (s32[], f32[8,128]) parameter(0)"
    outside = "%state = (s32[], f32[8,128]) parameter(0)\n  %limit = s32[] get-tuple-element(%state), index=2"
    text = LOOP.replace(inside, outside).replace("%FIRST%", "0")
    text = text.replace("%state = (s32[], f32[8,128]) tuple(%first, %x)", "%many = s32[] constant(7)\n"
                        "  %state = (s32[], f32[8,128], s32[]) tuple(%first, %x, %many)")  # fmt: skip
    assert Program.read(text).times["body"] == 7


def test_a_counter_that_takes_two_steps_at_once():
    text = (
        LOOP.replace("%ROUNDS%", "9")
        .replace("%FIRST%", "0")
        .replace("%one = s32[] constant(1)", "%one = s32[] constant(2)")
    )
    assert Program.read(text).times["body"] == 5


def test_a_loop_that_ends_otherwise_counts_once():
    assert Program.read(LOOP.replace("direction=LT", "direction=NE").replace("%FIRST%", "0")).times["body"] == 1


def test_what_lies_in_fast_memory_moves_nothing():
    assert array_bytes("f32[8,128]{1,0:T(8,128)}") == ARRAY
    assert array_bytes("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}") == 0
    assert array_bytes("(s32[], pred[3], bf16[2,2]{1,0:S(0)})") == 4 + 3 + 8


def test_traffic_counts_slices_and_rounds():
    # A round reads a slice of the stack, writes it, reads it again, and writes the sum; nothing else is outside.
    counter = 4
    assert memory_traffic(program(5)) == 5 * (4 * ARRAY + 3 * counter)
    assert memory_traffic(program(10)) == 2 * memory_traffic(program(5))
