"""Plans of two-layer models, compiled for every TPU generation and for two slices, against counts by hand."""

import math

import pytest

from aloe_jax.planning import flops
from aloe_jax.planning.demand import measured
from aloe_jax.planning.plan import compile_plan, compile_step, estimate_plan, prepared
from aloe_jax.planning.sampler import plan_sampler
from tests.parallel.test_topology import needs_libtpu
from tests.planning.subjects import LEAST, SPEC, subject

pytestmark = needs_libtpu


def state_by_hand(spec, fsdp, tensor):
    """Bytes of float32 parameters and AdamW's two moments on a chip, and of the step counters."""
    total = 0
    for weight in spec.weights().values():
        parts = (fsdp if "width" in weight.axes else 1) * (
            tensor if {"vocab", "query_heads", "kv_heads", "feed_forward"} & set(weight.axes) else 1
        )
        total += 3 * 4 * math.prod(weight.shape) // parts
    return total


def compare_memory(demand, slices=1):
    """A step's memory with what is counted by hand."""
    state = state_by_hand(SPEC, fsdp=2, tensor=2)
    batch = 8 // (2 * slices) * 7 * 512 * 4  # at most: five fields a token, the rest smaller than two of them
    assert state <= demand.arguments <= state + batch + 2**16
    gradients = state / 3 / 2  # in bfloat16, while their layer is computed
    assert demand.peak > demand.arguments + gradients / SPEC.layers


# And v5p below.
@pytest.mark.parametrize(
    ("topology", "slices"),
    [
        ("v5e:2x2", 2),
        pytest.param("v4:2x2x1", 1, marks=pytest.mark.soak),
        pytest.param("v6e:2x2", 1, marks=pytest.mark.soak),
    ],
)
def test_memory_is_at_least_what_is_counted_by_hand(topology, slices):
    plan = compile_plan(subject(topology, slices), LEAST)
    compare_memory(plan.demand, slices)
    assert plan.fits
    guess = estimate_plan(subject(topology, slices))
    assert guess.demand.arguments == pytest.approx(plan.demand.arguments, rel=0.01)
    assert guess.computed == plan.computed
    # What must be exchanged is; the compiler may choose other kinds for it.
    for axis in ("fsdp", "tensor", *(("data",) if slices > 1 else ())):
        expected, made = (sum(e.bytes for e in p.demand.exchanges if e.axes == (axis,)) for p in (guess, plan))
        assert made == pytest.approx(expected, rel=0.5), axis
    if slices > 1:
        assert plan.roofline.axes["network between slices"] > 0
        between = {e.dtype: e.bytes for e in plan.demand.exchanges if e.axes == ("data",)}
        assert between["bf16"] > 20 * between.get("f32", 0)  # gradients travel in bfloat16, the norms' in float32


def test_flops_agree_with_an_unrolled_step():
    """The compiler's own count, where no loop hides a layer from it; attention is dense, so all T² scores count.

    Memory is compared as above.
    """
    options = {"model__attention": "dense", "model__remat": "none", "model__unroll": 2}
    unrolled, mesh, workload = prepared(subject("v5p:2x2x1", stage="sft", **options), real=True)
    compiled = compile_step(unrolled, mesh, workload, LEAST)
    counted = compiled.cost_analysis()["flops"] * mesh.size
    scored = workload.packed.rows.scored.shape[1]
    formula = flops.computed(unrolled.settings, SPEC, scored, pairs=512**2)
    assert formula.total == pytest.approx(counted, rel=0.02)
    # The control: a formula that forgot the head, or attention, would be told.
    assert formula.total - formula.head < 0.99 * counted
    assert formula.total - formula.attention < 0.9 * counted
    compare_memory(measured(compiled, mesh))


def test_the_sampler_is_compiled_for_the_same_mesh():
    made = plan_sampler(subject("v5e:2x2"), rows=6, length=512, options=LEAST)
    assert made.rows == 6 and made.read == 6 * 64  # so few rows are all read at a time
    slots = 512 + 2 * 64  # of the blocks, and of the tail of every row
    assert made.cache == SPEC.layers * 2 * (6 // 2) * (SPEC.kv_heads // 2) * SPEC.head_size * slots * 2
    weights_in_bfloat16 = state_by_hand(SPEC, fsdp=2, tensor=2) / 3 / 2
    for demand, times in (made.prefill, made.decode):
        assert demand.peak > made.cache + weights_in_bfloat16
        assert times.bound > 0
    assert made.fits and "decode" in str(made)
