"""Siblings that are drawn together draw what forks draw, and one of them goes on without being read again."""

import jax
import numpy as np
import pytest
from flax import nnx

from aloe_jax.errors import AloeError
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling import siblings as programs
from aloe_jax.sampling.sampler import Sampler
from aloe_jax.sampling.shapes import sibling_rows
from tests.compilations import compilations
from tests.sampling.tiny import LENGTH, full_logits, lively, padded, prompts

WARM = {"temperature": 0.7, "top_p": 0.9}
LENGTHS = (70, 9, 64, 127)


@pytest.fixture(scope="module")
def model():
    return lively()


def talk(sampler: Sampler, turns: int, most: int, siblings: int = 3, lengths=LENGTHS, stop=()):
    """Of every turn (prompt, seed, reply) of every sibling, and the session."""
    session = sampler.sibling_session(len(lengths), siblings)
    session.extend(prompts(*lengths))
    made = []
    for turn in range(turns):
        numbers = session.numbers
        before = [session.tokens(number) for number in numbers]
        seeds = [[1000 * turn + 10 * number + g for g in range(siblings)] for number in numbers]
        groups = session.sibling_replies(most, seeds=seeds, among=numbers, stop=stop, logps=True, **WARM)
        made += [
            (prompt, seed, reply)
            for prompt, own, group in zip(before, seeds, groups, strict=True)
            for seed, reply in zip(own, group, strict=True)
        ]
        session.choose({number: (turn + number) % siblings for number in numbers})
        session.extend(prompts(*[3 + number for number in numbers], seed=turn), among=numbers)
    return made, session


def check_forks(model, made, most: int, cache: str = "compute", stop=()) -> None:
    """A session without siblings draws the same tokens from the same prompts and seeds, with the same log-probs."""
    session = Sampler(model, max_length=LENGTH, cache=cache).session(len(made))
    for number, (prompt, _, _) in enumerate(made):
        session.replace(number, prompt)
    expected = session.replies(most, seeds=[seed for _, seed, _ in made], stop=stop, logps=True, **WARM)
    for (_, _, reply), other in zip(made, expected, strict=True):
        assert (reply.tokens, reply.reason) == (other.tokens, other.reason)
        np.testing.assert_allclose(reply.logps, other.logps, atol=2e-5)
        np.testing.assert_allclose(reply.drawn_logps, other.drawn_logps, atol=2e-5)
    assert len({tuple(reply.tokens) for _, _, reply in made}) > len(made) // 2


@pytest.mark.parametrize(("rows", "stop"), [(12, ()), (6, (7, 11))])
def test_siblings_draw_as_conversations_of_their_own_do(model, rows, stop):
    """With rows for all four conversations, and for two of them; over ends of pages, and with replies that end."""
    made, _ = talk(Sampler(model, max_length=LENGTH, rows=rows), 2, 20, stop=stop)
    check_forks(model, made, 20, stop=stop)


@pytest.mark.parametrize("cache", ["bfloat16", "int8"])
def test_rounded_caches(model, cache):
    made, _ = talk(Sampler(model, max_length=LENGTH, cache=cache), 2, 20)
    check_forks(model, made, 20, cache)


def test_replies_longer_than_a_page_are_drawn_in_one_call_and_kept(model):
    made, session = talk(Sampler(model, max_length=LENGTH), 1, 100, siblings=2, lengths=(30, 60))
    check_forks(model, made, 100)
    for number in session.numbers:
        conversation = session.tokens(number)
        logits = np.asarray(full_logits(model, padded([conversation])))[0]
        assert session.reply(1, among=[number])[0] == [int(logits[len(conversation) - 1].argmax())]


def test_conversations_end_at_their_longest_length(model):
    session = Sampler(model, max_length=80).sibling_session(2, 3)
    session.extend(prompts(70, 20))
    groups = session.sibling_replies(40, 1.0, [[1, 2, 3]] * 2, [0, 1], stop=())
    assert [[(len(reply.tokens), reply.reason) for reply in group] for group in groups] == [
        [(10, "length")] * 3,
        [(40, "max_new_tokens")] * 3,
    ]


def test_a_prompt_is_read_once_and_what_was_chosen_is_not_read(model):
    _, session = talk(Sampler(model, max_length=LENGTH), 2, 20)
    first = sum(length - 1 for length in LENGTHS)
    # Of a chosen reply all but the last token are cached; that one, and of new tokens all but the newest, are read.
    assert session.tokens_read == first + sum(3 + number for number in range(4))


def test_conversations_that_are_not_asked_stay_as_they_are(model):
    _, session = talk(Sampler(model, max_length=LENGTH), 1, 20)
    read = session.tokens_read
    made = []
    for among in ([0, 2], [1, 3], [0, 1, 2, 3]):
        seeds = [[100 * len(made) + 10 * number + g for g in range(3)] for number in among]
        groups = session.sibling_replies(20, seeds=seeds, among=among, stop=(), logps=True, **WARM)
        for number, own, group in zip(among, seeds, groups, strict=True):
            made += [(session.tokens(number), seed, reply) for seed, reply in zip(own, group, strict=True)]
    check_forks(model, made, 20)
    assert session.tokens_read == read + sum(3 + number for number in range(4))


def test_a_choice_that_was_interrupted_can_be_made_again(model, monkeypatch):
    session = Sampler(model, max_length=LENGTH).sibling_session(2, 2)
    session.extend(prompts(30, 70))
    before = session.tokens(0)
    seeds = [[1, 2], [3, 4]]
    groups = session.sibling_replies(5, 1.0, seeds, [0, 1], stop=())
    kept = programs.keep

    def interrupted(*arguments, **more):
        kept(*arguments, **more)  # the old cache is donated by now
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.choose({0: 1, 1: 0})
    assert session.tokens(0) == before
    monkeypatch.undo()
    session.choose({0: 1, 1: 0})
    assert session.tokens(0) == before + groups[0][1].tokens
    made = [
        (session.tokens(number), seed, reply)
        for number, group in enumerate(
            session.sibling_replies(5, seeds=seeds, among=[0, 1], stop=(), logps=True, **WARM)
        )
        for seed, reply in zip(seeds[number], group, strict=True)
    ]
    check_forks(model, made, 5)
    with pytest.raises(AloeError, match="siblings 0 to 1, not 2"):
        session.choose({0: 2})
    session.choose({0: 0})
    with pytest.raises(AloeError, match="no siblings were drawn"):
        session.choose({0: 0})


def test_after_new_weights_everything_is_read_again():
    model = lively()
    sampler = Sampler(model, max_length=LENGTH)
    session = sampler.sibling_session(1, 2)
    session.extend(prompts(30))
    session.sibling_replies(5, 1.0, [[1, 2]], [0], stop=())
    sampler.update(jax.tree.map(lambda x: 2 * x, model.split().trained))
    session.choose({0: 1})
    read = session.tokens_read
    (replies,) = session.sibling_replies(5, 1.0, [[1, 2]], [0], stop=(), logps=True)
    assert session.tokens_read == read + 34
    with_new = Sampler(sampler.model, max_length=LENGTH).session(1)
    with_new.extend([session.tokens(0)])
    assert with_new.reply(5, 1.0, seeds=[2], stop=()) == [replies[1].tokens]


def test_meshes_draw_the_same(model):
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    one, _ = talk(Sampler(model, max_length=LENGTH), 2, 20)
    spread = model.spec.assemble(
        jax.device_put(nnx.to_pure_dict(nnx.state(model, nnx.Param)), model.spec.shardings(mesh))
    )
    many, _ = talk(Sampler(spread, max_length=LENGTH), 2, 20)
    for (_, _, reply), (_, _, other) in zip(one, many, strict=True):
        assert reply.tokens == other.tokens


@pytest.mark.parametrize("axes", [None, {"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("rows", [1, 5, 8, 33, 64])
def test_rows_of_a_session_are_those_that_are_estimated(model, axes, rows):
    """The estimate knows the setting, the session the sampler's rows, which are whole shards."""
    shards = 1 if axes is None else axes["data"] * axes.get("fsdp", 1)
    spread = model
    if axes is not None:
        mesh = make_mesh(MeshSettings(**axes))
        spread = model.spec.assemble(
            jax.device_put(nnx.to_pure_dict(nnx.state(model, nnx.Param)), model.spec.shardings(mesh))
        )
    sampler = Sampler(spread, max_length=LENGTH, rows=rows)
    assert sampler.shards == shards
    for siblings in (1, 3, 4, 16):
        for conversations in (1, 6, 9, 100):
            size = sampler.sibling_session(conversations, siblings)._cache.size
            assert size == sibling_rows(conversations, siblings, rows, shards) and size % shards == 0
            assert size == shards or size * siblings <= sampler.rows
            assert size >= shards * min(sampler.rows // shards // siblings, conversations // shards)


def test_one_compile(model):
    talk(Sampler(model, max_length=LENGTH), 2, 20)
    with compilations() as compiled:
        talk(Sampler(model, max_length=LENGTH), 2, 20, lengths=(5, 66, 7, 8))
    assert compiled.total() == 0


def test_what_has_no_meaning_is_refused(model):
    session = Sampler(model, max_length=LENGTH).sibling_session(2, 2)
    session.extend([[1, 2], []])
    with pytest.raises(AloeError, match="1 seeds for 2 siblings"):
        session.sibling_replies(5, 1.0, [[1]], [0])
    with pytest.raises(AloeError, match="conversation 1: has no tokens"):
        session.sibling_replies(5, 1.0, [[1, 2]], [1])
    with pytest.raises(AloeError, match="no siblings were drawn"):
        session.choose({0: 0})
    session.sibling_replies(5, 1.0, [[1, 2]], [0], stop=())
    with pytest.raises(AloeError, match="siblings 0 to 1, not 2"):
        session.choose({0: 2})
    session.extend([[3]], among=[0])
    with pytest.raises(AloeError, match="no siblings were drawn to what it is now"):
        session.choose({0: 0})
