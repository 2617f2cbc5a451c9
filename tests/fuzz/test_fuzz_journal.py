"""Journals damaged, cut, of other programs or written by hand: read as they were, or refused in one line."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import strategies as st

from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn, Journal
from aloe_jax.benchmark.judge import Judge
from aloe_jax.errors import AloeError
from aloe_jax.llm.journal_file import COLUMNS, checksum
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast, PreferredDialogue, Rating
from datagen.build import split_by_profile
from datagen.conversations import recorded_conversations, write_conversations
from datagen.dry_run import estimate_conversations, estimate_personas
from datagen.journal import recorded_skips
from datagen.look.stats import tables
from datagen.personas import recorded_personas, recorded_pools, write_personas
from datagen.pool.seeds import seed_texts
from datagen.waves import _jobs_under_way
from tests.fuzz.harness import fuzz, one_line
from tests.players import small_settings, some_personas

pytestmark = pytest.mark.soak

PEOPLE = some_personas(1, 1)
PATH = [{"role": "user", "content": "hello"}]


class Player:
    """Answers at once, so that what the journal has not is made anew."""

    def describe(self, name, prompt_of=None):
        return {"model": "x", "prompt": prompt_of or name}

    def judge(self, persona, history, reply, seed):
        return Rating(rating=3, reason="anew")

    def compare(self, persona, first, second, seed):
        return PreferredDialogue(preferred="tie", reason="anew")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Settings, and the path of a journal with rows in every table and of every kind."""
    root = tmp_path_factory.mktemp("journal")
    settings = small_settings(root / "run", count=4, turns=2)
    path = root / "run" / "journal.sqlite"
    with Ledger(path) as ledger:
        cast = Cast(settings.roles, ledger)
        people, _ = write_personas(ledger, cast, settings, seed_texts(settings))
        write_conversations(ledger, cast, people.training, settings)
        ledger.put("skip", "c/0", {"conversation": "c", "reason": "judge (m): blocked reply, SAFETY"})
        ledger.put("batch-job", "label", {"name": "batches/1", "role": "user", "keys": ["a"]})
        ledger.count_fault("m", "judge", "503 Service Unavailable")
        ledger.vectors("m", ["one", "two"], lambda texts: [[1.0, 2.0] for _ in texts])
        kept = Journal(ledger, {"model": "x"}, {"model": "u"}, 0, PEOPLE)
        kept.write(0, [(0, DialogueTurn("hello", CandidateReply("hi", (1, 2))))])
        judge = Judge("j", Player(), ledger, 0)
        judge.vote(PEOPLE[0], PATH, "hi")
        judge.compare(PEOPLE[0], PATH, PATH)
    return settings, path


def contents(path):
    """All that a journal says, through the readers of both programs."""
    with Ledger(path, writing=False) as ledger:
        kinds = (
            "pool",
            "pool-batch",
            "conversation",
            "skip",
            "settings",
            "exchange",
            "rating",
            "comparison",
            "batch-job",
        )
        records = {kind: ledger.all(kind) for kind in kinds}
        calls = ledger._rows("calls")
        vectors = ledger.vectors("m", ["one", "two"], lambda texts: [[0.0, 0.0] for _ in texts]).tolist()
        return records, calls, ledger.usage(), ledger.faults(), vectors


def readers(path, settings, all_of_it):
    """Every command that reads a journal, as far as it reads; `stats` measures long, so only with `all_of_it`."""
    with Ledger(path, writing=False) as ledger:
        recorded_pools(ledger, settings)
        people = recorded_personas(ledger, settings)
        found = recorded_conversations(ledger, people.training, settings)
        if len({tree.persona.profile for tree in found}) > 1:
            split_by_profile(found, 0.3, 0)
        estimate_conversations(ledger, people.training, settings)
        _jobs_under_way(ledger)
        estimate_personas(ledger, settings, seed_texts(settings))
        recorded_skips(ledger)
        if all_of_it:
            tables(ledger, settings)


def benchmark(path):
    """What the benchmark reads, and asks anew where there is nothing."""
    with Ledger(path) as ledger:
        for exchange in Journal(ledger, {"model": "x"}, {"model": "u"}, 0, PEOPLE).read(0, 3):
            Dialogue(PEOPLE[0], [exchange]).path(0)
        judge = Judge("j", Player(), ledger, 0)
        assert judge.vote(PEOPLE[0], PATH, "hi").rating in range(1, 6)
        assert isinstance(judge.compare(PEOPLE[0], PATH, PATH), PreferredDialogue)


def refused(read, *arguments, **more):
    """What reading gives, or the one line in which it is refused."""
    try:
        return read(*arguments, **more)
    except AloeError as error:
        return one_line(error)


# ---------------------------------------------------------------- bytes

PLACE = st.floats(0, 1, exclude_max=True)
BYTES = st.one_of(
    st.tuples(st.just("flip"), st.lists(st.tuples(PLACE, st.integers(0, 7)), min_size=1, max_size=4)),
    st.tuples(st.just("header"), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), min_size=1, max_size=3)),
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("page"), st.tuples(PLACE, st.binary(min_size=1, max_size=64))),
    st.tuples(st.just("longer"), st.binary(max_size=5000)),
    st.tuples(st.just("garbage"), st.binary(max_size=3000)),
    st.tuples(st.just("headed"), st.binary(max_size=3000)),
)


def spoiled(data, how, what):
    match how:
        case "flip":
            for place, bit in what:
                data[int(place * len(data))] ^= 1 << bit
        case "header":
            for place, value in what:
                data[place] = value
        case "cut":
            del data[int(what * len(data)) :]
        case "page":
            start = int(what[0] * len(data)) // 4096 * 4096
            data[start : start + 4096] = (what[1] * 4096)[:4096]
        case "longer":
            data += what
        case "garbage":
            data[:] = what
        case "headed":
            data[:] = b"SQLite format 3\0" + what
    return bytes(data)


def test_no_damage_to_the_bytes_goes_unnoticed(run, tmp_path):
    _, good = run
    whole, expected = good.read_bytes(), contents(good)

    def check(value):
        path = fresh(tmp_path)
        path.write_bytes(spoiled(bytearray(whole), *value))
        found = refused(contents, path)
        # An empty file is a journal with nothing in it yet.
        assert isinstance(found, str) or found == expected or not path.read_bytes(), value
        refused(lambda: Ledger(path).close())

    fuzz(BYTES, check)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder / "j", ignore_errors=True)
    (folder / "j").mkdir()
    return folder / "j" / "journal.sqlite"


# ---------------------------------------------------------------- records by hand

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.one_of(
    JSON.map(json.dumps),
    st.text(max_size=20),
    st.sampled_from(["", "[" * 5000, '{"a":' * 5000, "9" * 5000, "NaN", '{"rating": null, "reason": "none"}']),
)


@st.composite
def edited(draw):
    """(number of a record, what to do with one of its values): the value goes, or another comes in its place."""
    return draw(st.integers(0, 400)), draw(st.integers(0, 30)), draw(st.booleans()), draw(JSON)


def places(value, path=()):
    """All places within a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def changed(text, which, gone, other):
    value = json.loads(text)
    all_places = list(places(value))
    *above, last = all_places[which % len(all_places)] or (None,)
    if last is None:
        return json.dumps(other)
    target = value
    for key in above:
        target = target[key]
    if gone and isinstance(target, dict):
        del target[last]
    else:
        target[last] = other
    return json.dumps(value)


def test_records_that_mean_nothing_are_refused_or_asked_for_again(run, tmp_path):
    settings, good = run

    def check(value):
        how, what, checked = value
        path = fresh(tmp_path)
        shutil.copyfile(good, path)
        database = sqlite3.connect(path, isolation_level=None)
        rows = database.execute("SELECT number, kind, id, value FROM records ORDER BY number").fetchall()
        number, kind, id, old = rows[what[0] % len(rows)]
        text = changed(old, *what[1:]) if how == "edit" else what[1]
        database.execute(
            "UPDATE records SET value = ?, checksum = ? WHERE number = ?",
            (text, checksum("records", (kind, id, text)), number),
        )
        if not checked:
            for table in COLUMNS:
                database.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
            database.execute("PRAGMA user_version = 2")
        database.close()
        refused(readers, path, settings, all_of_it=what[0] % 10 == 0)
        refused(benchmark, path)

    fuzz(
        st.one_of(
            st.tuples(st.just("edit"), edited(), st.booleans()),
            st.tuples(st.just("text"), st.tuples(st.integers(0, 400), TEXT), st.booleans()),
        ),
        check,
    )


# ---------------------------------------------------------------- other programs' files


def test_the_databases_of_other_programs_are_refused_and_left_alone(tmp_path):
    names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
    foreign = st.tuples(
        st.lists(st.one_of(st.sampled_from([*COLUMNS, "songs"]), names), min_size=1, max_size=4, unique_by=str.lower),
        st.lists(names, min_size=1, max_size=4, unique_by=str.lower),
        st.sampled_from([0, 1, 0x414C4F45]),
        st.sampled_from([0, 1, 2, 3, 4, 99]),
    )

    def check(value):
        made, columns, application, version = value
        path = fresh(tmp_path)
        database = sqlite3.connect(path, isolation_level=None)
        try:
            for name in made:
                database.execute(f'CREATE TABLE "{name}" ({", ".join(f"{column!r}" for column in columns)})')
                database.execute(f'INSERT INTO "{name}" VALUES ({", ".join("1" for _ in columns)})')
        except sqlite3.Error:  # a name that SQLite keeps for itself
            return
        finally:
            database.execute(f"PRAGMA application_id = {application}")
            database.execute(f"PRAGMA user_version = {version}")
            database.close()
        before = path.read_bytes()
        for writing in (False, True):
            found = refused(lambda writing=writing: Ledger(path, writing=writing).close())
            assert isinstance(found, str), value
        assert application == 0x414C4F45 or path.read_bytes() == before

    fuzz(foreign, check)
