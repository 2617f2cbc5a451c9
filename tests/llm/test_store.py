"""The journal's file: damage is found and named, an old one is brought up to date, a read-only disk is read."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.journal_file import CHECKED_WHOLE, COLUMNS
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion, Request
from aloe_jax.llm.salvage import salvage

TEXTS = [f"the answer number {n} of a model, in some words" for n in range(60)]


class Model:
    name = "m"

    def __init__(self):
        self.asked = []

    def complete(self, request):
        self.asked.append(request.seed)
        return Completion(TEXTS[request.seed], 3, 5, cost=0.5)


def question(seed):
    return Request("judge", {}, "", "how good is it?", {}, 0.0, seed)


def filled(path):
    """A journal with 60 calls, 60 records, two vectors and a fault."""
    with Ledger(path) as ledger:
        for seed in range(60):
            ledger.complete(Model(), question(seed))
        ledger.put_many("rating", [(f"id{n}", {"rating": 1 + n % 5, "reason": f"reason {n}"}) for n in range(60)])
        ledger.count_fault("m", "judge", "timeout")
        ledger.count_fault("m", "judge", "timeout")
        ledger.vectors("v", ["one", "two"], lambda texts: [[1.5, 2.5] for _ in texts])
    return path


def contents(path):
    with Ledger(path, writing=False) as ledger:
        vectors = ledger.vectors("v", ["one", "two"], lambda texts: [[0.0, 0.0] for _ in texts]).tolist()
        calls = [ledger.find_call("m", question(seed)) for seed in range(60)]
        return ledger.all("rating"), calls, ledger.usage(), ledger.faults(), vectors


def altered(path, old, new):
    """The journal with bytes that occur once exchanged for as many others."""
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b"number 17 of a model", b"number 71 of a model", r"call [0-9a-f]{60} of judge to m is not as it was written"),
        (b"number 17 of a model", b"number 17 of a m\xffdel", "call .* is not as it was written"),
        (b'"reason 23"', b'"reason 32"', "rating id23 is not as it was written"),
        (b'"reason 23"', b'"reason 2\xff"', "rating id23 is not as it was written"),
        (b"timeout", b"timeouT", "the count of timeouT of judge with m is not as it was written"),
    ],
)
def test_a_changed_row_is_named(tmp_path, old, new, named):
    path = filled(tmp_path / "j")
    altered(path, old, new)
    for writing in (True, False):
        with pytest.raises(AloeError, match=f"/j: the journal is damaged: {named}; put a copy .*salvage") as caught:
            Ledger(path, writing=writing)
        assert "\n" not in str(caught.value)


def test_in_a_large_file_rows_are_checked_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("aloe_jax.llm.journal_file.CHECKED_WHOLE", 1)
    path = filled(tmp_path / "j")
    altered(path, b"number 17 of a model", b"number 71 of a model")
    altered(path, b'"reason 23"', b'"reason 32"')
    with Ledger(path) as ledger:
        assert ledger.find_call("m", question(16)).text == TEXTS[16]
        assert ledger.get("rating", "id22") == {"rating": 3, "reason": "reason 22"}
        for read in (
            lambda: ledger.find_call("m", question(17)),
            lambda: ledger.get("rating", "id23"),
            lambda: ledger.all("rating"),
        ):
            with pytest.raises(AloeError, match="is not as it was written"):
                read()
    assert CHECKED_WHOLE > 30 << 20  # a journal of the usual size is checked whole


def test_every_flipped_bit_of_a_text_is_found(tmp_path):
    path = filled(tmp_path / "j")
    whole = path.read_bytes()
    place = whole.index(b"number 17 of a model")
    for bit in range(8 * 20):
        data = bytearray(whole)
        data[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(AloeError, match="not as it was written"):
            Ledger(path, writing=False)


@pytest.mark.parametrize("size", [1, 100, 511, 512, 4096, 20_000])
def test_a_file_that_was_cut_is_refused_and_left_alone(tmp_path, size):
    path = filled(tmp_path / "j")
    path.write_bytes(path.read_bytes()[:size])
    before = path.read_bytes()
    for writing in (True, False):
        with pytest.raises(AloeError, match=r"damaged|no journal"):
            Ledger(path, writing=writing)
    assert path.read_bytes() == before


def without_checksums(path):
    """The same journal as version 2 had it."""
    with sqlite3.connect(path) as database:
        for table in COLUMNS:
            database.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        database.execute("PRAGMA user_version = 2")
    database.close()


def test_a_journal_of_version_2_is_read_and_gets_checksums_once(tmp_path, capsys):
    path = filled(tmp_path / "j")
    expected = contents(path)
    without_checksums(path)
    before = path.read_bytes()
    assert contents(path) == expected
    assert path.read_bytes() == before  # a reader leaves it as it is
    Ledger(path).close()
    assert "of an earlier version; gave its 60 calls and 60 records checksums" in capsys.readouterr().err
    assert contents(path) == expected
    Ledger(path).close()
    assert capsys.readouterr().err == ""
    altered(path, b"number 17 of a model", b"number 71 of a model")
    with pytest.raises(AloeError, match="not as it was written"):
        Ledger(path)


def test_bad_text_in_a_journal_without_checksums_is_told(tmp_path):
    path = filled(tmp_path / "j")
    without_checksums(path)
    altered(path, b'"reason 23"', b'"reason 2\xff"')
    with pytest.raises(AloeError, match="rating id23 is not as it was written"):
        Ledger(path)


def test_halves_of_characters_are_kept_as_question_marks(tmp_path):
    class Odd(Model):
        def complete(self, request):
            return Completion("half \ud83d here", outcome="blocked", detail="\udc00")

    with Ledger(tmp_path / "j") as ledger:
        first = ledger.complete(Odd(), question(0))
        ledger.put("kind", "id", {"text": "\ud83d"})
        ledger.count_fault("m", "judge", "\ud83d")
    assert (first.text, first.detail) == ("half ? here", "?")
    with Ledger(tmp_path / "j") as ledger:
        assert ledger.find_call("m", question(0)) == first
        assert ledger.get("kind", "id") == {"text": "?"}


def test_whether_a_call_was_made_by_this_process(tmp_path):
    model = Model()
    with Ledger(tmp_path / "j") as ledger:
        assert not ledger.asked_now("m", question(0))
        ledger.complete(model, question(0))
        ledger.complete(model, question(0))
        assert ledger.asked_now("m", question(0)) and not ledger.asked_now("m", question(1))
    with Ledger(tmp_path / "j") as ledger:
        ledger.complete(model, question(0))
        assert not ledger.asked_now("m", question(0))
    assert model.asked == [0]


def test_how_much_a_model_thinks_is_part_of_the_question(tmp_path):
    keys = {Request("judge", {}, "", "p", {}, 0.0, 0, thinking).key("m") for thinking in (None, 0, 1024)}
    assert len(keys) == 3


# ---------------------------------------------------------------- salvage


@pytest.mark.parametrize("spoil", ["page", "row", "log"])
def test_what_can_be_read_is_salvaged_and_the_rest_asked_again(tmp_path, spoil):
    path = filled(tmp_path / "j")
    expected = contents(path)
    data = bytearray(path.read_bytes())
    if spoil == "page":
        place = data.index(b"number 17 of a model") // 4096 * 4096
        data[place : place + 4096] = bytes(4096)
    else:
        place = data.index(b"number 17 of a model")
        data[place] ^= 1
    path.write_bytes(data)
    if spoil == "log":  # what its last process wrote is not folded in
        data = path.read_bytes()
        program = (
            "import os, sys, sqlite3\ndatabase = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "database.execute(\"DELETE FROM records WHERE id = 'id5'\")\nos._exit(0)"
        )
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        assert (tmp_path / "j-wal").stat().st_size
    else:
        with pytest.raises(AloeError, match=r"python -m aloe_jax\.salvage"):
            Ledger(path)
    done = salvage(path)
    assert done.original == tmp_path / "j.damaged" and done.original.stat().st_size == len(data)
    model = Model()
    with Ledger(path) as ledger:
        for seed in range(60):
            assert ledger.complete(model, question(seed)).text == TEXTS[seed]
        ratings = ledger.all("rating")
    assert 17 in model.asked and len(model.asked) < 40
    assert len(model.asked) == 60 - done.kept["calls"]
    assert ratings == {id: value for id, value in expected[0].items() if spoil != "log" or id != "id5"}
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["j", "j.damaged", "j.lock", *(["j.damaged-wal"] if spoil == "log" else [])]
    )


@pytest.mark.parametrize("content", [b"", b"notes", b"\0" * 9000])
def test_what_is_no_journal_is_not_salvaged(tmp_path, content):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(AloeError, match="j: "):
        salvage(path)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["j"]


def test_the_command_says_what_it_kept(tmp_path):
    path = filled(tmp_path / "j")
    altered(path, b'"reason 23"', b'"reason 32"')
    command = [sys.executable, "-m", "aloe_jax.salvage", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "calls: 60 kept\n" in found.stdout and "records: 59 kept, 1 damaged" in found.stdout
    assert found.stdout.endswith("j.damaged; give the command of the run again.\n")
    missing = subprocess.run([*command[:-1], str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert missing.returncode == 1 and missing.stderr.startswith("Error: ") and missing.stderr.count("\n") == 1


# ---------------------------------------------------------------- a read-only disk


@pytest.fixture
def read_only(tmp_path):
    """A function that makes a disk of a directory's files and lets nobody write to it."""
    mounted = []

    def mount(folder):
        disk = tmp_path / "disk"
        disk.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False)
        if made.returncode:
            pytest.skip("a disk can be mounted only by root")
        mounted.append(disk)
        for file in folder.iterdir():
            shutil.copy(file, disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_journal_on_a_read_only_disk_is_read(tmp_path, read_only):
    folder = tmp_path / "run"
    expected = contents(filled(folder / "j"))
    (folder / "j.lock").unlink()
    disk = read_only(folder)
    assert contents(disk / "j") == expected
    with pytest.raises(AloeError, match=r"/j\.lock: cannot be written \(Read-only file system\)"):
        Ledger(disk / "j")


def test_what_a_killed_run_left_in_the_log_is_read_on_a_read_only_disk_too(tmp_path, read_only):
    folder = tmp_path / "run"
    filled(folder / "j")
    program = (
        "import os, sys\nfrom aloe_jax.llm.ledger import Ledger\nledger = Ledger(sys.argv[1])\n"
        "ledger.put('rating', 'last', {'rating': 5, 'reason': 'in the log'})\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "j")], check=True)
    assert (folder / "j-wal").stat().st_size
    (folder / "j-shm").unlink()
    disk = read_only(folder)
    with Ledger(disk / "j", writing=False) as ledger:
        assert ledger.get("rating", "last") == {"rating": 5, "reason": "in the log"}
        assert len(ledger.all("rating")) == 61


def test_a_reader_makes_nothing(tmp_path):
    with pytest.raises(AloeError, match="x/j: there is no journal"):
        Ledger(tmp_path / "x" / "j", writing=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "j").touch()  # a run that was killed at once
    with Ledger(tmp_path / "j", writing=False) as ledger:
        assert ledger.all("rating") == {}
    assert (tmp_path / "j").stat().st_size == 0
