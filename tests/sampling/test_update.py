"""New weights: draws are those of a new sampler, nothing is compiled, and nothing of the caller's is taken."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import Compute
from aloe_jax.models.weights import flat
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling.sampler import Sampler
from tests.compilations import compilations
from tests.random_models import random_decoder
from tests.sampling.tiny import LENGTH, SPEC, lively, prompts

WARM = {"temperature": 0.7, "top_p": 0.9, "stop": ()}
LORA = LoRASettings(rank=2, alpha=4, targets=("query", "down"))


def other():
    """A model of other weights."""
    return random_decoder(SPEC, 0.5, seed=7)


def adapted(seed: int):
    """The same weights under adapters that differ, and change what is drawn."""
    model = lively().adapted(LORA, seed=0)
    for number, value in enumerate(model.adapters.values()):
        value[...] = 0.7 * jax.random.normal(jax.random.key(10 * seed + number), value.shape)
    return model


def spread(model, mesh):
    """The model with its parameters over the mesh."""
    return model.spec.assemble(
        jax.device_put(nnx.to_pure_dict(nnx.state(model, nnx.Param)), model.spec.shardings(mesh))
    )


def open_session(sampler, rows):
    session = sampler.session(4)
    for number, row in enumerate(rows):
        session.replace(number, row)
    return session


def check_updates(old, new, fresh):
    """A sampler of `old`, updated with the weights of `new`: in open sessions, in new ones, and back again."""
    rows = prompts(30, 70, 5, 64)
    sampler = Sampler(old, max_length=LENGTH, rows=4)
    session = open_session(sampler, rows)
    first = session.reply(10, **WARM)
    trained = new.split().trained
    sampler.update(trained)  # the first may compile what moves arrays
    sampler.update(old.split().trained)
    with compilations() as compiled:
        sampler.update(trained)
        continued = session.reply(10, **WARM)
        again = open_session(sampler, rows).reply(10, **WARM)
    assert not compiled
    whole = [row + reply for row, reply in zip(rows, first, strict=True)]
    expected = Sampler(fresh, max_length=LENGTH, rows=4)
    assert continued == open_session(expected, whole).reply(10, **WARM)
    assert again == open_session(expected, rows).reply(10, **WARM)
    assert again != first
    sampler.update(old.split().trained)
    assert open_session(sampler, rows).reply(10, **WARM) == first
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((trained, old.split().trained)))
    np.testing.assert_array_equal(*(np.asarray(jax.tree.leaves(tree)[0]) for tree in (trained, fresh.split().trained)))


def test_draws_are_those_of_a_new_sampler():
    check_updates(lively(), other(), other())


def test_adapters_alone_are_updated():
    check_updates(adapted(1), adapted(2), adapted(2))
    assert set(flat(adapted(1).split().trained)) == {
        f"adapters.{name}_{side}" for name in LORA.targets for side in "ab"
    }


def test_on_a_mesh_weights_keep_the_sampler_s_shardings():
    """The trainer's are those of another mesh, with what is split over fsdp and tensor the other way round."""
    ours, theirs = (
        make_mesh(MeshSettings(data=2, fsdp=fsdp, tensor=tensor)) for fsdp, tensor in ((2, 2), (4, 1))
    )  # fmt: skip
    check_updates(spread(lively(), ours), spread(other(), theirs), spread(other(), ours))
    sampler = Sampler(spread(lively(), ours))
    before = jax.tree.map(lambda x: x.sharding, sampler.state)
    sampler.update(spread(other(), theirs).split().trained)
    assert jax.tree.map(lambda x: x.sharding, sampler.state) == before


def test_nothing_is_compiled_by_the_first_update():
    """Not even by the first, where the arrays have the sampler's type and devices."""
    sampler = Sampler(lively(), max_length=LENGTH)
    session = open_session(sampler, prompts(3, 4, 5, 6))
    session.reply(2, stop=())
    trained = other().split().trained
    with compilations() as compiled:
        sampler.update(trained)
        session.reply(2, stop=())
    assert not compiled


def test_weights_of_another_type_are_cast():
    """Master copies in float32, for a sampler in bfloat16."""
    wide = other().split().trained
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)
    compute = Compute(dtype="bfloat16")
    sampler = Sampler(SPEC.assemble(jax.tree.map(lambda x: 0 * x, narrow), compute), max_length=LENGTH)
    sampler.update(wide)
    expected = Sampler(SPEC.assemble(narrow, compute), max_length=LENGTH)
    rows = prompts(30, 70, 5, 64)
    assert open_session(sampler, rows).reply(10, **WARM) == open_session(expected, rows).reply(10, **WARM)
    assert {leaf.dtype for leaf in jax.tree.leaves(sampler.state)} == {jnp.dtype(jnp.bfloat16)}


def test_an_open_stream_goes_on_with_the_new_weights():
    (row,) = prompts(30)
    sampler = Sampler(lively(), max_length=LENGTH)
    session = sampler.session(4)
    session.replace(0, row)
    pieces = session.stream(16, every=8, among=[0], stop=())
    begun = next(pieces)[1].tokens
    sampler.update(other().split().trained)
    rest = next(pieces)[1].tokens
    new = Sampler(other(), max_length=LENGTH).session(4)
    new.replace(0, row + begun)
    assert rest == new.reply(8, among=[0], stop=())[0]


def live_bytes() -> int:
    gc.collect()
    parts = [shard.data for leaf in jax.live_arrays() if leaf.nbytes for shard in leaf.addressable_shards]
    return sum({part.unsafe_buffer_pointer(): part.nbytes for part in parts}.values())


def test_an_update_leaves_no_second_copy():
    """Before and after it the sampler has the caller's arrays and those of the layers, no array of the old weights."""
    sampler = Sampler(lively(), max_length=LENGTH)
    new = other().split().trained
    sampler.update(new)
    before = live_bytes()
    new = random_decoder(SPEC, 0.5, seed=8).split().trained
    sampler.update(new)
    assert live_bytes() == before
    shared = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(new)}
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(sampler.state)} == shared


def test_donated_weights_are_a_clear_error_until_the_next_update():
    sampler = Sampler(lively(), max_length=LENGTH)
    session = open_session(sampler, prompts(3, 4, 5, 6))
    params = other().split().trained
    sampler.update(params)
    params = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(params)
    with pytest.raises(AloeError, match="donated to another computation, such as a training step; call update"):
        session.reply(2)
    sampler.update(params)
    assert len(session.reply(2, stop=())) == 4


def test_mistakes_name_the_weight():
    sampler = Sampler(lively(), max_length=LENGTH)
    session = open_session(sampler, prompts(3, 4, 5, 6))
    session.reply(2, stop=())
    before, read = sampler.state, session.tokens_read
    params = other().split().trained
    short = {**params, "layers": {name: value for name, value in params["layers"].items() if name != "gate"}}
    narrow = {**params, "embedding": params["embedding"][:, :8]}
    for wrong, message in (
        (short, r"update: weight layers\.gate is missing"),
        (narrow, r"update: weight embedding has shape \(50, 8\), the sampler's has \(50, 16\)"),
        ({**params, "adapters": {"query_a": jnp.zeros(3)}}, r"trains no weight adapters\.query_a"),
    ):
        with pytest.raises(AloeError, match=message):
            sampler.update(wrong)
    with pytest.raises(AloeError, match=r"weight adapters\.down_a is missing"):
        Sampler(adapted(1)).update(params)
    assert sampler.state is before
    session.reply(2, stop=())
    assert session.tokens_read == read  # what was cached is still valid
