"""The journal: nothing asked twice, nothing lost, unusable files told in one line."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion, Request


def request(prompt: str = "hello", seed: int = 0) -> Request:
    return Request("user", {}, "", prompt, {}, 0.0, seed)


class Echo:
    name = "echo"

    def __init__(self, wait: float = 0.0) -> None:
        self.asked: list[str] = []
        self.wait = wait

    def complete(self, request: Request) -> Completion:
        self.asked.append(request.prompt)
        time.sleep(self.wait)
        if request.prompt == "fail":
            raise AloeError("no answer")
        return Completion(f"{request.prompt} {len(self.asked)}", 3, 5)


def test_a_call_is_made_once_even_across_runs(tmp_path):
    path, llm = tmp_path / "run" / "journal.sqlite", Echo()
    with Ledger(path) as ledger:
        first = ledger.complete(llm, request())
        assert ledger.complete(llm, request()) == first
        assert ledger.complete(llm, request(seed=1)) != first
    with Ledger(path) as ledger:
        assert ledger.complete(llm, request()) == first == Completion("hello 1", 3, 5)
        usage = ledger.usage()["echo/user"]
        assert (usage.calls, usage.input_tokens, usage.output_tokens) == (2, 6, 10)
        assert usage.cost is None and usage.outcomes == {"ok": 2}
    assert len(llm.asked) == 2


def test_another_model_is_asked_anew(tmp_path):
    other = Echo()
    other.name = "other"
    with Ledger(tmp_path / "j") as ledger:
        ledger.complete(Echo(), request())
        ledger.complete(other, request())
    assert other.asked == ["hello"]


def test_errors_pass_through_and_are_not_kept(tmp_path):
    llm = Echo()
    with Ledger(tmp_path / "j") as ledger:
        for _ in range(2):
            with pytest.raises(AloeError, match="no answer"):
                ledger.complete(llm, request("fail"))
    assert len(llm.asked) == 2


def test_threads_that_ask_the_same_share_one_call(tmp_path):
    llm, answers = Echo(wait=0.05), []
    with Ledger(tmp_path / "j") as ledger:
        ask = [threading.Thread(target=lambda: answers.append(ledger.complete(llm, request()))) for _ in range(6)]
        for thread in ask:
            thread.start()
        for thread in ask:
            thread.join()
    assert len(llm.asked) == 1
    assert answers == [Completion("hello 1", 3, 5)] * 6


def test_threads_that_ask_different_things_all_get_theirs(tmp_path):
    answers = {}
    with Ledger(tmp_path / "j") as ledger:

        def work(number: int) -> None:
            for turn in range(20):
                prompt = f"{number} {turn}"
                answers[prompt] = ledger.complete(Echo(), request(prompt)).text
                ledger.put("turn", prompt, {"text": prompt})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ledger.all("turn")) == 160
    assert answers == {f"{n} {t}": f"{n} {t} 1" for n in range(8) for t in range(20)}


def test_records_keep_their_order_and_their_first_value(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        ledger.put("persona", "b", {"x": [1, "é"]})
        ledger.put_many("persona", [("a", {"y": None}), ("c", {})])
        ledger.put("persona", "b", {"x": [1, "é"]})
        ledger.put("rating", "b", {"x": 2})
        with pytest.raises(AloeError, match="persona b is already stored with another value"):
            ledger.put("persona", "b", {"x": 2})
    with Ledger(tmp_path / "j") as ledger:
        assert list(ledger.all("persona").items()) == [("b", {"x": [1, "é"]}), ("a", {"y": None}), ("c", {})]
        assert ledger.get("rating", "b") == {"x": 2}
        assert ledger.get("rating", "a") is None


def test_put_many_is_all_or_nothing(tmp_path):
    with Ledger(tmp_path / "j") as ledger:
        ledger.put("k", "2", {"old": 1})
        with pytest.raises(AloeError):
            ledger.put_many("k", [("1", {}), ("2", {"new": 1})])
        assert list(ledger.all("k")) == ["2"]
        ledger.put("k", "3", {})  # the failed transaction is over


def test_what_was_written_survives_sigkill(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from aloe_jax.llm.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for n in range(50): ledger.put('turn', str(n), {'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "j")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Ledger(tmp_path / "j") as ledger:
        assert [record["n"] for record in ledger.all("turn").values()] == list(range(50))


def test_a_full_disk_is_told_and_leaves_the_journal_whole(tmp_path):
    path, llm = tmp_path / "j", Echo()
    with Ledger(path) as ledger:
        ledger.put("k", "kept", {})
        ledger._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(AloeError, match="disk is full"):
            ledger.put_many("k", [(str(n), {"text": "x" * 5000}) for n in range(20)])
        with pytest.raises(AloeError, match="disk is full"):
            ledger.complete(llm, request("x" * 50_000))
        assert list(ledger.all("k")) == ["kept"]
    with Ledger(path) as ledger:
        assert list(ledger.all("k")) == ["kept"]


@pytest.mark.parametrize("content", [b"profiles:\n- one\n" * 100, b"\0" * 4096, b"SQLite format 3\0" + b"\x07" * 5000])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(AloeError, match=r"notes\.txt: .*journal"):
        Ledger(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE songs (title)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(AloeError, match="no journal of ours"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_journal_of_another_version_is_refused(tmp_path):
    Ledger(tmp_path / "j").close()
    with sqlite3.connect(tmp_path / "j") as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(AloeError, match="journal of version 99"):
        Ledger(tmp_path / "j")


def test_a_damaged_journal_is_told(tmp_path):
    path = tmp_path / "j"
    with Ledger(path) as ledger:
        ledger.put_many("k", [(str(n), {"text": "x" * 500}) for n in range(200)])
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(AloeError, match="journal is damaged"), Ledger(path) as ledger:
        ledger.all("k")


def test_a_directory_and_an_unwritable_place_are_told(tmp_path):
    with pytest.raises(AloeError, match="cannot open the journal"):
        Ledger(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AloeError, match="cannot create the directory"):
        Ledger(tmp_path / "file" / "deeper" / "j")


def test_a_journal_has_one_writer_and_any_readers(tmp_path):
    path = tmp_path / "j"
    code = (
        "import sys\nfrom aloe_jax.llm.ledger import Ledger\nledger = Ledger(sys.argv[1])\n"
        "print('open', flush=True)\nsys.stdin.readline()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(AloeError, match=rf"another process is writing this journal \(process {other.pid} on "):
            Ledger(path)
        with Ledger(path, writing=False) as reader:
            assert reader.usage() == {}
    finally:
        other.kill()  # not closed: the lock must go with the process
        other.wait()
    with Ledger(path) as ledger:
        ledger.put("kind", "id", {})


def test_calls_keep_what_they_took(tmp_path):
    class Blocked(Echo):
        def complete(self, request):
            if request.seed:
                return Completion("", 7, 0, "blocked", "SAFETY", 0.5, 3)
            return Completion("fine", 1, 2, cost=0.25)

    with Ledger(tmp_path / "j") as ledger:
        ledger.complete(Blocked(), request())
        blocked = ledger.complete(Blocked(), request(seed=1))
        assert ledger.complete(Echo(), request(seed=1)) == blocked  # a block is an answer: not asked again
        ledger.count_fault("echo", "user", "429")
        ledger.count_fault("echo", "user", "429")
        ledger.count_fault("echo", "user", "timeout")
        usage = ledger.usage()["echo/user"]
        assert usage.outcomes == {"ok": 1, "blocked": 1} and usage.cost == 0.75 and usage.seconds >= 0
        assert ledger.faults() == {"echo/user": {"429": 2, "timeout": 1}}


def test_embeddings_are_asked_for_once(tmp_path):
    asked = []

    def embed(texts):
        asked.append(list(texts))
        return [[float(len(text)), 1.0] for text in texts]

    texts = [f"{'x' * k}" for k in range(1, 6)]
    with Ledger(tmp_path / "j") as ledger:
        first = ledger.vectors("m", texts[:3], embed, batch=2)
        assert first.tolist() == [[1, 1], [2, 1], [3, 1]] and first.dtype == "float32"
    with Ledger(tmp_path / "j") as ledger:
        again = ledger.vectors("m", [*texts, texts[0]], embed, batch=2)
        assert again[:, 0].tolist() == [1, 2, 3, 4, 5, 1]
        ledger.vectors("other", texts[:1], embed)
        with pytest.raises(AloeError, match="returned 1 embeddings for 2 texts"):
            ledger.vectors("m", ["new", "newer"], lambda some: [[0.0]])
    assert asked == [texts[:2], texts[2:3], texts[3:], texts[:1]]
