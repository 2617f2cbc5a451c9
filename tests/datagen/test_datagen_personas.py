"""The pools and the draw: resumable, disjoint, and clear when they cannot grow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax import config
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.world import seed_personalities, seed_profiles
from aloe_jax.roles import Cast, RoleError
from datagen.journal import BATCH
from datagen.personas import Personas, draw, grow, recorded_personas, write_personas
from tests.players import small_settings

SEEDS = (seed_profiles(), seed_personalities())


class Writer:
    """Writes `fresh` new texts a call until they run out, and otherwise copies its examples."""

    def __init__(self, fresh: int = 3, total: int = 10**6):
        self.fresh, self.total, self.calls = fresh, total, 0

    def write(self, examples, count, seed):
        self.calls += 1
        start = self.calls * self.fresh
        new = [f"alpha{k} beta{k} gamma{k} delta{k}" for k in range(start, min(start + self.fresh, self.total))]
        return (new + list(examples) + [""])[:count]

    write_profiles = write_personalities = write


class Broken:
    def write_profiles(self, examples, count, seed):
        raise RoleError("persona_writer (by rule): unusable answer twice, nothing in it")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_training_and_benchmark_share_no_profile_and_no_personality(tmp_path, ledger):
    settings = small_settings(tmp_path)
    personas, pools = write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    assert (len(personas.training), len(personas.benchmark)) == (12, 4)
    for part in (Personas.profile_id, Personas.personality_id):
        assert {part(p) for p in personas.training}.isdisjoint({part(p) for p in personas.benchmark})
    for field in ("profile", "personality"):
        training = {getattr(p, field) for p in personas.training}
        assert training.isdisjoint({getattr(p, field) for p in personas.benchmark})
    everyone = personas.training + personas.benchmark
    assert len({p.id for p in everyone}) == 16
    assert len({(p.profile, p.personality) for p in everyone}) == 16
    assert pools["profiles"].members[: len(SEEDS[0])] == SEEDS[0]  # a seed is a member
    assert recorded_personas(ledger, settings) == personas


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_draw_is_disjoint_for_any_sizes(data):
    small = st.integers(1, 6)
    wanted = config.Personas(
        profiles=data.draw(small),
        personalities=(personalities := data.draw(small)),
        personalities_per_profile=data.draw(st.integers(1, personalities)),
        benchmark_profiles=data.draw(small),
        benchmark_personalities=data.draw(small),
    )
    run = config.Datagen(output="unused", seed=data.draw(st.integers(0, 99)), personas=wanted)
    sizes = (wanted.profiles + wanted.benchmark_profiles, wanted.personalities + wanted.benchmark_personalities)
    pairs = draw(*sizes, run)
    assert len(set(pairs["train"])) == wanted.profiles * wanted.personalities_per_profile
    assert len(set(pairs["benchmark"])) == wanted.benchmark_profiles * wanted.benchmark_personalities
    for part, size in enumerate(sizes):
        train = {pair[part] for pair in pairs["train"]}
        held_out = {pair[part] for pair in pairs["benchmark"]}
        assert train.isdisjoint(held_out)
        assert train | held_out <= set(range(size))
    assert pairs == draw(*sizes, run)


def test_an_interrupted_pool_grows_into_the_same_pool(tmp_path, ledger):
    settings = small_settings(tmp_path)

    def pool(into, target):
        cast = Cast(settings.roles, into)
        return grow(into, "profiles", SEEDS[0], target, settings, write=cast.write_profiles).members

    pool(ledger, 25)  # stopped early, by a smaller target
    resumed = pool(ledger, 60)
    with Ledger(tmp_path / "other.sqlite") as fresh:
        assert pool(fresh, 60) == resumed
        assert fresh.all(BATCH) == ledger.all(BATCH)


def test_finished_calls_are_not_asked_again(tmp_path, ledger):
    settings, writer = small_settings(tmp_path), Writer()
    first = grow(ledger, "profiles", SEEDS[0], 20, settings, write=writer.write)
    calls = writer.calls
    second = grow(ledger, "profiles", SEEDS[0], 20, settings, write=writer.write)
    assert (writer.calls, second) == (calls, first)
    assert first.refused["similar to a member"] == calls * settings.personas.examples


def test_saturation_is_told_with_the_count_and_what_to_change(tmp_path, ledger):
    settings, writer = small_settings(tmp_path), Writer(fresh=2, total=7)
    told = r"^the pool of profiles stopped growing at 15 of 50: 20 calls.* raise personas\.similarity, .*kept$"
    for write in (writer.write, None):  # the second time the journal alone says so
        with pytest.raises(AloeError, match=told):
            grow(ledger, "profiles", SEEDS[0], 50, settings, write=write)


def test_unreadable_answers_count_towards_patience(tmp_path, ledger):
    with pytest.raises(AloeError, match="20 unreadable answer"):
        grow(ledger, "profiles", SEEDS[0], 50, small_settings(tmp_path), write=Broken().write_profiles)


def test_other_settings_are_refused_with_the_key_and_both_values(tmp_path, ledger):
    settings = small_settings(tmp_path)
    write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    with pytest.raises(AloeError, match=r"journal\.sqlite: its personas were made with seed=0, the config says 1"):
        recorded_personas(ledger, settings.model_copy(update={"seed": 1}))


def test_nothing_is_grown_for_a_draw_that_cannot_be_made(tmp_path, ledger):
    wanted = config.Personas(personalities=3, personalities_per_profile=4)
    run = config.Datagen(output=str(tmp_path), personas=wanted)
    with pytest.raises(AloeError, match="personalities_per_profile: 4 different personalities"):
        write_personas(ledger, Writer(), run, SEEDS)


def test_personas_come_before_everything_else(tmp_path, ledger):
    with pytest.raises(AloeError, match="python -m datagen personas"):
        recorded_personas(ledger, small_settings(tmp_path))
