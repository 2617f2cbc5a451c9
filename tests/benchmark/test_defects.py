"""Cut, empty and repeated replies are counted, stored and warned of, however well they were rated."""

import json

import pytest

from aloe_jax.benchmark.candidates import ModelCandidate, ResponderCandidate
from aloe_jax.benchmark.defects import defect_warnings, loops, reply_defects
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn, Journal, digest
from aloe_jax.benchmark.judge import JudgedReply, Vote
from aloe_jax.benchmark.results import METRICS, TRANSCRIPTS, load_results, write_results
from aloe_jax.benchmark.scoring import Talked
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import Completion
from aloe_jax.report.defects import shares
from aloe_jax.report.gathering import gather
from aloe_jax.report.page import render
from aloe_jax.report.payload import cases
from aloe_jax.report.summary_table import table
from aloe_jax.report.tables import latex, markdown
from aloe_jax.roles import Cast
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.settings import DrawSettings, SamplingSettings
from tests.benchmark.test_dialogue import END, PERSONAS, Sampler, Session, Template, candidate, talk
from tests.players import SCRIPTED
from tests.report import sample


def dialogue(*replies, persona=PERSONAS[0]):
    return Dialogue(persona, [DialogueTurn("hi", reply) for reply in replies])


def said(text, ended="stop"):
    return CandidateReply(text, ended=ended)


def test_shares_of_replies():
    first = dialogue(said("Good day, Ada!"), said("half a", "max_new_tokens"), said("good day ada"), said(" \n"))
    second = dialogue(said("Good day, Ada!"), said("old", "unknown"), said("no " * 12, "length"), said(""))
    found = reply_defects([first, second])
    assert (found.replies, found.unknown, found.cut, found.empty) == (8, 1, 2 / 7, 2 / 8)
    # The same words in another dialogue are no repetition; two empty replies are empty, not repeated.
    assert (found.earlier, found.looping, found.repeated) == (1 / 8, 1 / 8, 2 / 8)
    nothing = reply_defects([Dialogue(PERSONAS[0])])
    assert nothing.replies == 0 and nothing.cut is nothing.empty is nothing.repeated is None
    assert reply_defects([dialogue(said("x", "unknown"))]).cut is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ha " * 11, False),
        ("ha " * 12, True),
        ("I see, I see. " * 3, True),
        ("one two three four five. " * 2, False),
        ("one two three four five. " * 3, True),
        ("And so on: " + "a b c d e f g h i j, " * 3, True),
        ("a b c d e f g h i j k, " * 3, False),  # longer than a loop is looked for
        ("We went to the lake, then to the shop, then to the pier, and then to the inn by the sea.", False),
        ("", False),
    ],
)
def test_a_loop_is_the_same_words_over_and_over(text, found):
    assert loops(text.lower().replace(",", "").replace(".", "").split()) == found


def test_the_sampler_s_reason_reaches_the_journal_and_comes_back(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = talk(candidate(folder), tmp_path / "j")
    ends = [exchange.reply.ended for one in first for exchange in one.exchanges]
    assert set(ends) == {"stop", "max_new_tokens"}
    assert talk(candidate(folder), tmp_path / "j") == first  # from the journal

    class Full(Session):
        def replies(self, *args, **settings):
            return [Generation([65], "length") for _ in self.rows]

    sampler = Sampler()
    sampler.session = lambda batch: Full(sampler, batch)
    cut = ModelCandidate(folder, SamplingSettings(max_new_tokens=6), load=lambda path, sampling: (sampler, Template()))
    assert {e.reply.ended for one in talk(cut, tmp_path / "k", turns=2) for e in one.exchanges} == {"length"}


def test_a_remote_reply_that_was_shortened_is_known_for_one(tmp_path):
    class Wordy:
        name = "wordy"

        def __init__(self, sentences):
            self.sentences = sentences

        def complete(self, request):
            return Completion(json.dumps({"reply": " ".join(["So it is."] * self.sentences)}))

    for sentences, ended in ((3, "stop"), (4, "shortened")):
        with Ledger(tmp_path / f"j{sentences}") as ledger:
            cast = Cast(SCRIPTED, ledger, only=("responder",), model=lambda role, name, n=sentences: Wordy(n))
            (reply,) = ResponderCandidate(cast, {"model": "m"}).reply([Dialogue(PERSONAS[0])], ["hi"], [0])
        assert reply == CandidateReply("So it is. So it is. So it is.", ended=ended)
    found = reply_defects([dialogue(reply)])
    assert (found.cut, found.shortened) == (0, 1)
    assert list(defect_warnings({"m": found}, {})) == [
        "m: 100% of its replies had more than 3 sentences and were shortened to them"
    ]


def test_an_old_journal_opens_and_does_not_know_why_replies_ended(tmp_path):
    who, user = {"model": "x"}, {"model": "y"}
    with Ledger(tmp_path / "j") as ledger:
        old = {"user": "hi", "reply": "hello", "ids": [72, END]}
        ledger.put("exchange", f"{digest(who, user, 0, PERSONAS[0].model_dump())}/0", old)
        (turn,) = Journal(ledger, who, user, 0, PERSONAS[:1]).read(0, 3)
    assert turn.reply == CandidateReply("hello", (72, END), "unknown")


def test_an_old_journal_of_a_local_model_says_by_its_tokens_which_replies_were_cut(tmp_path):
    """Fewer than max_new_tokens ended by themselves, and so did as many where the last token ends other replies."""
    who, user = {"path": "m", "sampling": {"max_new_tokens": 3}}, {"model": "y"}
    stored = [[72, END], [72, 73, 74], [72, 73, END]]
    with Ledger(tmp_path / "j") as ledger:
        for turn, ids in enumerate(stored):
            old = {"user": "hi", "reply": "hello", "ids": ids}
            ledger.put("exchange", f"{digest(who, user, 0, PERSONAS[1].model_dump())}/{turn}", old)
        ledger.put(
            "exchange",
            f"{digest(who, user, 0, PERSONAS[0].model_dump())}/0",
            {"user": "hi", "reply": "hello", "ids": [72, 73, END]},
        )
        journal = Journal(ledger, who, user, 0, PERSONAS[:2])
        assert [turn.reply.ended for turn in journal.read(0, 3)] == ["stop"]
        assert [turn.reply.ended for turn in journal.read(1, 3)] == ["stop", "max_new_tokens", "stop"]


def test_a_share_of_cut_replies_says_of_how_many_the_end_is_unknown(tmp_path):
    """A resumed journal of before: 0% of 10 replies is not 0% of 1,000."""
    found = reply_defects([dialogue(*[said(f"{n}", "unknown" if n else "stop") for n in range(1000)])])
    assert shares(found) == "0% (999 of 1,000 unknown) / 0% / 0%"
    none = reply_defects([dialogue(*[said(f"{n}", "unknown") for n in range(20)])])
    assert shares(none) == "\N{EN DASH} / 0% / 0%"
    assert shares(reply_defects([dialogue(said("x"))])) == "0% / 0% / 0%"
    report = gather([cut_run(tmp_path, 0.1, unknown=30)])
    for text in (markdown(report), latex(report).replace("\\%", "%"), in_terminal(report)):
        assert "(30 of 40 unknown)" in " ".join(text.split())


def cut_run(directory, share, unknown=0):
    """A model whose replies are rated 4 or 5, of which `share` is cut, and one whose every third is empty.

    Of the last `unknown` replies of the first model it is not known why they ended.
    """
    people = sample.personas(10)
    every = [(case, turn) for case in range(10) for turn in range(4)]
    cut, lost = set(every[: round(share * len(every))]), set(every[len(every) - unknown :])

    def end(case, turn):
        return "unknown" if (case, turn) in lost else "max_new_tokens" if (case, turn) in cut else "stop"

    def spoken(name, reply):
        dialogues = [
            Dialogue(person, [DialogueTurn("hi", reply(case, turn)) for turn in range(4)])
            for case, person in enumerate(people)
        ]
        verdicts = [[JudgedReply((Vote("judge", 0, 5 if turn % 2 else 4, ""),)) for turn in range(4)] for _ in people]
        return Talked(name, dialogues, verdicts)

    models = [
        spoken("fine", lambda case, turn: said(f"{case} and {turn}", end(case, turn))),
        spoken("mute", lambda case, turn: said("" if turn == 2 else f"{case} or {turn}")),
    ]
    write_results(directory, sample.results(models, sampling={"max_new_tokens": 8}))
    return directory


def in_terminal(report):
    from rich.console import Console

    console = Console(width=80, record=True)
    console.print(table(report))
    return console.export_text()


def test_a_run_warns_of_cut_replies_wherever_its_numbers_go(tmp_path):
    report = gather([cut_run(tmp_path, 0.1)])
    assert {entry.label: entry.numbers.replies.cut for entry in report.entries} == {"fine": 0.1, "mute": 0}
    ended = [turn.ended for case in load_results(tmp_path).cases["fine"] for turn in case.turns]
    assert ended.count("max_new_tokens") == 4 and ended.count("stop") == 36
    warned = "10.0% of its replies were cut; raise sampling.max_new_tokens (8)"
    for text in (markdown(report), latex(report), render(report), in_terminal(report)):
        plain = " ".join(text.replace("\\_", "_").replace("\\%", "%").split())
        assert warned in plain and "mute: 25.0% of its replies are empty" in plain
    shown = [turn for case in cases(report) for turn in case["columns"][0]["turns"]]
    assert [turn.get("ended") for turn in shown] == ["max_new_tokens"] * 4 + [None] * 36
    assert "10.0% / 0% / 0%" in markdown(report) and "10.0% / 0% / 0%" in in_terminal(report)


def test_there_is_no_warning_up_to_two_in_a_hundred(tmp_path):
    found = reply_defects([dialogue(*(said(str(n), "max_new_tokens" if n < 2 else "stop") for n in range(100)))])
    assert found.cut == 0.02 and not list(defect_warnings({"a": found, "b": None}, {}))
    more = found.model_copy(update={"cut": 0.021, "repeated": 0.5})
    assert list(defect_warnings({"a": more}, {})) == [
        "a: 2.1% of its replies were cut; raise sampling.max_new_tokens",
        "a: 50.0% of its replies repeat themselves or an earlier one",
    ]


def test_results_of_before_replies_were_counted_open_and_say_so(tmp_path):
    cut_run(tmp_path, 0.1)
    metrics = json.loads((tmp_path / METRICS).read_text())
    for model in metrics["models"].values():
        del model["replies"]
    (tmp_path / METRICS).write_text(json.dumps(metrics))
    lines = [json.loads(line) for line in (tmp_path / TRANSCRIPTS).read_text().split("\n") if line]
    for line in lines:
        for turn in line["turns"]:
            del turn["ended"]
    (tmp_path / TRANSCRIPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = gather([tmp_path])
    assert report.entries[0].numbers.replies is None
    assert {t.ended for case in load_results(tmp_path).cases["fine"] for t in case.turns} == {"unknown"}
    assert "not counted" in render(report) and "cut" not in in_terminal(report)


def test_the_benchmark_lets_replies_end():
    assert SamplingSettings().max_new_tokens == 512
    assert DrawSettings().max_new_tokens == 128  # on-policy RL, which knows what to do with a cut reply
