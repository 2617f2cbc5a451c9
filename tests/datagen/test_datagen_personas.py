"""The pools and the draw: resumable, disjoint, and clear when they cannot grow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import BudgetError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.llm.world import seed_personalities, seed_profiles
from aloe_jax.roles import Cast, RoleError
from datagen.journal import BATCH
from datagen.personas import Personas, draw, recorded_personas, recorded_pools, write_personas
from datagen.pool.growth import Batch, SaturatedError, TextPool, curve_text, grow, journaled_pool, sparkline
from datagen.pool.seeds import seed_texts
from datagen.pool.similarity import Novelty
from datagen.settings import DatagenSettings, PersonasSettings
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


def raising(error):
    def write(examples, count, seed):
        raise error

    return write


def changed(settings, part, **values):
    """The settings with other values in one section, or in the persona writer's role."""
    if part == "persona_writer":
        role = settings.roles.persona_writer.model_copy(update=values)
        return settings.model_copy(update={"roles": settings.roles.model_copy(update={part: role})})
    section = type(getattr(settings, part)).model_validate(getattr(settings, part).model_dump() | values)
    return settings.model_copy(update={part: section})


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
    wanted = PersonasSettings(
        profiles=data.draw(small),
        personalities=(personalities := data.draw(small)),
        personalities_per_profile=data.draw(st.integers(1, personalities)),
        benchmark_profiles=data.draw(small),
        benchmark_personalities=data.draw(small),
    )
    run = DatagenSettings(output="unused", seed=data.draw(st.integers(0, 99)), personas=wanted)
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


def test_benchmark_people_may_share_nothing_with_each_other():
    wanted = PersonasSettings(
        profiles=8, personalities=6, personalities_per_profile=2, benchmark_profiles=7, benchmark_personalities=7,
        benchmark_pairing="distinct",
    )  # fmt: skip
    pairs = draw(15, 13, DatagenSettings(output="unused", personas=wanted))
    profiles, personalities = zip(*pairs["benchmark"], strict=True)
    assert len(set(profiles)) == len(set(personalities)) == len(pairs["benchmark"]) == 7
    assert {one for one, _ in pairs["train"]}.isdisjoint(profiles)
    assert {one for _, one in pairs["train"]}.isdisjoint(personalities)


def test_distinct_people_need_as_many_personalities_as_profiles():
    with pytest.raises(ValidationError, match="20 and 5; give benchmark_profiles and benchmark_personalities the same"):
        PersonasSettings(benchmark_pairing="distinct")


def test_journals_that_name_no_pairing_are_crossed(tmp_path, ledger):
    settings = small_settings(tmp_path)
    write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    assert "personas.benchmark_pairing" not in ledger.get("pool", "personas")["settings"]
    people = settings.personas.model_copy(update={"benchmark_pairing": "distinct"})
    with pytest.raises(AloeError, match=r"personas\.benchmark_pairing=None, the config says 'distinct'"):
        recorded_personas(ledger, settings.model_copy(update={"personas": people}))


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
    told = r"^the pool of profiles stopped growing at 15 of 50: 20 calls.* raise personas\.similarity, .*15 .*kept$"
    for write in (writer.write, None):  # the second time the journal alone says so
        with pytest.raises(SaturatedError, match=told) as caught:
            grow(ledger, "profiles", SEEDS[0], 50, settings, write=write)
        pool = caught.value.pool
        assert pool.curve == [10, 12, 14, *[15] * 21]
        assert sparkline(pool.accepted) == "██▄" + "·" * 20
        assert pool.members[:10] == SEEDS[0]
        assert "15 of 50 after 23 calls" in curve_text(pool, caught.value.target)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("unusable answer twice, nothing in it", "unreadable answer"),
        ("blocked reply, SAFETY", "blocked reply"),
        ("empty reply, STOP", "empty reply"),
        ("truncated reply, 8 tokens did not suffice", "truncated reply"),
    ],
)
def test_calls_without_an_answer_count_towards_patience_by_reason(tmp_path, ledger, said, reason):
    write = raising(RoleError(f"persona_writer (by rule): {said}"))
    with pytest.raises(SaturatedError, match=f"20 {reason}"):
        grow(ledger, "profiles", SEEDS[0], 50, small_settings(tmp_path), write=write)


@pytest.mark.parametrize("error", [BudgetError("max_calls: spent"), UnavailableError("roles.persona_writer: gone")])
def test_what_stops_a_run_is_passed_on_and_not_journaled(tmp_path, ledger, error):
    settings, writer = small_settings(tmp_path), Writer()
    with pytest.raises(type(error), match=str(error)):
        grow(ledger, "profiles", SEEDS[0], 20, settings, write=raising(error))
    assert ledger.all(BATCH) == {}
    with Ledger(tmp_path / "other.sqlite") as fresh:
        expected = grow(fresh, "profiles", SEEDS[0], 20, settings, write=Writer().write)
    assert grow(ledger, "profiles", SEEDS[0], 20, settings, write=writer.write) == expected


def test_how_the_writer_is_reached_may_change_between_runs(tmp_path, ledger):
    settings, writer = small_settings(tmp_path), Writer()
    first = grow(ledger, "profiles", SEEDS[0], 20, settings, write=writer.write)
    calls = writer.calls
    slower = changed(settings, "persona_writer", timeout=5.0, attempts=2, requests_per_minute=10)
    assert grow(ledger, "profiles", SEEDS[0], 20, slower, write=writer.write) == first
    assert writer.calls == calls
    hotter = changed(settings, "persona_writer", temperature=0.1)
    grow(ledger, "profiles", SEEDS[0], 20, hotter, write=writer.write)
    assert writer.calls > calls
    write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    recorded_personas(ledger, slower)
    with pytest.raises(AloeError, match=r"written with roles\.persona_writer\.temperature=0\.8"):
        recorded_personas(ledger, hotter)


def test_the_outcome_of_a_pool_is_read_back_as_it_was(tmp_path, ledger):
    settings = small_settings(tmp_path)
    bare = recorded_pools(ledger, settings)
    assert (bare["profiles"].members, bare["profiles"].calls) == (SEEDS[0], 0)
    half = grow(ledger, "profiles", SEEDS[0], 12, settings, write=Cast(settings.roles, ledger).write_profiles)
    assert recorded_pools(ledger, settings)["profiles"] == half
    assert journaled_pool(ledger, "profiles", SEEDS[0], changed(settings, "personas", similarity=0.5)).calls == 0
    _, pools = write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    for name, pool in recorded_pools(ledger, settings).items():
        assert (pool.curve, pool.refused) == (pools[name].curve, pools[name].refused)
        assert pool.members == pools[name].members[: len(pool.members)]


def test_a_pool_counts_its_calls():
    pool = TextPool("profiles", ["a", "b"])
    assert (pool.calls, pool.barren, sparkline(pool.accepted)) == (0, 0, "")
    assert "2 of 4 after 0 calls" in curve_text(pool, 4)
    for accepted in (["c", "d"], [], []):
        pool.take(Batch(accepted=accepted, refused={"similar to a member": 1}))
    assert (pool.curve, pool.accepted, pool.barren) == ([2, 4, 4, 4], [2, 0, 0], 2)
    assert pool.refused == {"similar to a member": 3}


def test_the_chart_is_as_wide_as_told_and_rises():
    pool = TextPool("profiles", [], curve=list(range(10, 361, 2)))
    _title, *rows, _axis, below = curve_text(pool, 360, width=40, height=6).splitlines()
    assert len(rows) == 6
    bars = [row.partition("│")[2] for row in rows]
    assert {len(bar) for bar in bars} == {40}
    filled = [sum(bar[column] != " " for bar in bars) for column in range(40)]
    assert filled == sorted(filled)
    assert filled[-1] == 6
    assert "█" * 40 in below


def test_other_settings_are_refused_with_the_key_and_both_values(tmp_path, ledger):
    settings = small_settings(tmp_path)
    write_personas(ledger, Cast(settings.roles, ledger), settings, SEEDS)
    with pytest.raises(AloeError, match=r"journal\.sqlite: its personas were written with seed=0, the config says 1"):
        recorded_personas(ledger, settings.model_copy(update={"seed": 1}))


def test_nothing_is_grown_for_a_draw_that_cannot_be_made(tmp_path, ledger):
    wanted = PersonasSettings(personalities=3, personalities_per_profile=4)
    run = DatagenSettings(output=str(tmp_path), personas=wanted)
    with pytest.raises(AloeError, match="personalities_per_profile: 4 different personalities"):
        write_personas(ledger, Writer(), run, SEEDS)


def test_personas_come_before_everything_else(tmp_path, ledger):
    with pytest.raises(AloeError, match="python -m datagen personas"):
        recorded_personas(ledger, small_settings(tmp_path))


# ---------------------------------------------------------------- the seeds


def with_seeds(path, provider="gemini", **personas):
    return DatagenSettings(
        output="unused",
        personas=PersonasSettings(seeds=None if path is None else str(path), **personas),
        roles=RolesSettings.model_validate({"provider": provider}),
    )


PROFILE, OTHER = "She is 34 and drives a tram in Porto.", "He is 51 and keeps bees near Lyon."
TRAITS = "Warm and quick to laugh. Hates long answers."


@pytest.fixture
def own_seeds(tmp_path):
    (tmp_path / "profiles.txt").write_text(f"{PROFILE}\n\n  {OTHER} \n")
    (tmp_path / "personalities.txt").write_text(TRAITS)
    return tmp_path


def test_the_built_in_seeds_are_far_apart_and_pass_the_filter():
    profiles, personalities = seed_texts(with_seeds(None))
    assert (len(profiles), len(personalities)) == (20, 20)
    for kind, texts in (("profiles", profiles), ("personalities", personalities)):
        accepted, refused = Novelty(0.2, kind=kind).filter(texts)
        assert (accepted, refused) == (texts, {})
        assert all(8 <= text.count(".") <= 10 for text in texts)
    gendered = {"he", "she", "his", "her", "man", "woman", "him"}
    assert not any(gendered & set(text.lower().replace(".", "").split()) for text in personalities)


def test_seeds_of_the_users_own(own_seeds):
    assert seed_texts(with_seeds(own_seeds)) == ([PROFILE, OTHER], [TRAITS])


def test_the_scripted_writer_has_the_seeds_of_its_world(own_seeds):
    assert seed_texts(with_seeds(None, "scripted")) == SEEDS
    with pytest.raises(AloeError, match=r"^personas\.seeds: .* scripted, reads only texts of its simulated world"):
        seed_texts(with_seeds(own_seeds, "scripted"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"{PROFILE}\n- {OTHER}\n".encode(), r"profiles\.txt line 2: .*\(a list or heading\)"),
        (f"{PROFILE}\n\nI drive a tram in Porto.\n".encode(), r"line 3: .*\(first person\)"),
        (b"A nurse.\n", r"line 1: .*shorter than 4 words"),
        (f"{PROFILE}\n{OTHER}\n{PROFILE}\n".encode(), r"line 3: repeats line 1"),
        (PROFILE.encode() + b"\n\xff\xfe\n", r"line 2: is not UTF-8"),
        (b"\n \n", r"profiles\.txt: holds no profiles"),
        (None, r"profiles\.txt: cannot read the seeds \(No such file"),
    ],
)
def test_bad_seeds_are_told_with_file_and_line(own_seeds, content, told):
    (own_seeds / "profiles.txt").unlink()
    if content is not None:
        (own_seeds / "profiles.txt").write_bytes(content)
    with pytest.raises(AloeError, match=told) as caught:
        seed_texts(with_seeds(own_seeds))
    assert "\n" not in str(caught.value)


def test_seeds_from_an_editor_that_marks_its_files(own_seeds):
    (own_seeds / "profiles.txt").write_bytes(b"\xef\xbb\xbf" + f"{PROFILE}\r\n{OTHER}\r\n".encode())
    assert seed_texts(with_seeds(own_seeds))[0] == [PROFILE, OTHER]


def test_seeds_that_are_alike_are_counted_as_refused(tmp_path, ledger):
    copy = SEEDS[0][0].replace("A man of", "A boy of")
    pool = grow(ledger, "profiles", [*SEEDS[0], copy], 10, small_settings(tmp_path), write=Writer().write)
    assert (pool.members, pool.refused) == (SEEDS[0], {"similar to a member": 1})
