"""What a reply tells: its pieces, why it ended, its log-probs; and what ends or steers it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.sampling import programs
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.sampler import Sampler
from tests.sampling.tiny import LENGTH, drawn, full_logits, lively, padded, prompts, replies, session_of


@pytest.fixture(scope="module")
def model():
    return lively()


@pytest.fixture(scope="module")
def plain(model):
    """Twenty greedy tokens for prompts(3, 17, 30)."""
    return replies(model, prompts(3, 17, 30), 20)


def test_replies_end_with_a_stop_token(model, plain):
    rows, stop = prompts(3, 17, 30), plain[1][4]
    ended = [reply[: reply.index(stop) + 1] if stop in reply else reply for reply in plain]
    assert ended != plain
    assert replies(model, rows, 20, stop=[stop]) == ended
    with_end = Sampler(model, SimpleNamespace(eos_token_id=stop), LENGTH).session(4)
    for number, row in enumerate(rows):
        with_end.replace(number, row)
    assert with_end.reply(20, among=range(3)) == ended
    for number, row in enumerate(rows):
        with_end.replace(number, row)
    assert with_end.reply(20, stop=(), among=range(3)) == plain


def test_a_row_that_is_full_stops_with_a_reason_and_does_not_wrap(model):
    rows = prompts(3, 157, 160)
    whole = drawn(model, rows, 32)
    assert [generation.reason for generation in whole] == ["max_new_tokens", "max_new_tokens", "length"]
    begun = [rows[0], rows[1] + whole[1].tokens[:20], rows[2] + whole[2].tokens[:30]]  # 177 and 190 tokens
    session = session_of(model, begun)
    made = session.replies(14, among=range(3))
    assert [generation.reason for generation in made] == ["max_new_tokens", "max_new_tokens", "length"]
    assert made[1].tokens[:12] == whole[1].tokens[20:] and made[2].tokens == whole[2].tokens[30:]
    again = session.replies(20, logps=True, among=range(3))
    assert [len(generation.tokens) for generation in again] == [20, 1, 0]
    assert [generation.reason for generation in again] == ["max_new_tokens", "length", "length"]
    assert again[2] == Generation([], "length", [], [])
    assert session.lengths == [37, LENGTH, LENGTH, 0]
    with pytest.raises(AloeError, match=f"conversation 1: {LENGTH + 1} tokens pass max_length {LENGTH}"):
        session.extend([[], [1], [], []])
    assert session.lengths == [37, LENGTH, LENGTH, 0]


def test_a_stop_token_is_a_reason_even_at_the_longest_length(model):
    (row,) = prompts(160)
    (whole,) = drawn(model, [row], 32)
    at = next(at for at in range(31, 0, -1) if whole.tokens[at] not in whole.tokens[:at])
    (ended,) = drawn(model, [row], 32, stop=[whole.tokens[at]])
    assert ended == Generation(whole.tokens[: at + 1], "stop")
    assert Sampler(model).session(0).replies(3) == []


def test_a_stream_is_the_reply_in_pieces_and_may_be_left(model, plain):
    session = session_of(model, prompts(3, 17, 30))
    pieces = list(session.stream(20, every=3, among=range(3)))
    told = [[token for number, piece in pieces if number == row for token in piece.tokens] for row in range(3)]
    assert told == plain
    assert max(len(piece.tokens) for _, piece in pieces) == 3
    assert [piece.reason for _, piece in pieces[-3:]] == ["max_new_tokens"] * 3
    assert all(piece.reason is None for _, piece in pieces[:-3])
    left = session_of(model, prompts(3, 17, 30))
    first = next(iter(left.stream(20, every=3, among=[1])))[1].tokens
    assert first + left.reply(17, among=[1])[0] == plain[1]


def test_an_interrupted_call_does_no_harm(model, monkeypatch):
    """Ctrl-C comes when the device has done its part, of which nobody takes note then."""
    session, decode = session_of(model, prompts(60, 3)), programs.decode

    def interrupted(*args, **settings):
        decode(*args, **settings)
        raise KeyboardInterrupt

    told = [next(pieces := session.stream(30, every=3, among=range(2)))[1].tokens]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(programs, "decode", interrupted)
        list(pieces)
    assert session.lengths == [63, 6, 0, 0]
    assert [told[0] + session.reply(17, among=[0])[0]] == replies(model, prompts(60), 20)


def test_log_probs_are_those_of_the_model_before_any_cut(model):
    rows = prompts(5, 20)
    session = session_of(model, rows)
    made = session.replies(70, temperature=1.3, top_k=5, repetition_penalty=1.5, stop=(), logps=True, among=range(2))
    whole = [row + generation.tokens for row, generation in zip(rows, made, strict=True)]
    logps = np.asarray(jax.nn.log_softmax(full_logits(model, padded(whole))))
    for at, (row, generation) in enumerate(zip(rows, made, strict=True)):
        expected = logps[at, np.arange(len(row) - 1, len(whole[at]) - 1), generation.tokens]
        np.testing.assert_allclose(generation.logps, expected, atol=1e-4)
        assert generation.reason == "max_new_tokens" and len(generation.tokens) == 70
    (plain,) = session.replies(2, among=[0])
    assert plain.logps is None and plain.drawn_logps is None


def cut_as_defined(logits: np.ndarray, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    """Which tokens [V] are left, by sorting: top-k, top-p among what is left, min-p."""
    order = np.argsort(-logits)
    order = order[: top_k or logits.size]
    shares = np.exp(logits[order] - logits.max())
    shares /= shares.sum()
    left = (np.cumsum(shares) - shares < top_p) & (shares >= min_p * shares.max())
    return np.isin(np.arange(logits.size), order[left])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.3, "top_k": 5, "min_p": 0.1},
        {"temperature": 0.9, "top_k": 12, "top_p": 0.8, "repetition_penalty": 1.5},
        {"temperature": 1.0},
    ],
)
def test_drawn_log_probs_are_those_of_what_was_drawn_from(model, settings):
    """By numpy in float64 from full forward passes: penalty, temperature, cuts, softmax."""
    rows = prompts(5, 20, 40)
    generations = drawn(model, rows, 40, stop=(), logps=True, **settings)
    whole = [row + generation.tokens for row, generation in zip(rows, generations, strict=True)]
    logits = np.asarray(full_logits(model, padded(whole)), np.float64)
    cuts = {name: value for name, value in settings.items() if name in ("top_k", "top_p", "min_p")}
    for at, (row, generation) in enumerate(zip(rows, generations, strict=True)):
        expected = []
        for position in range(len(row), len(whole[at])):
            scores = logits[at, position - 1].copy()
            seen, penalty = sorted(set(whole[at][:position])), settings.get("repetition_penalty", 1.0)
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
            scores /= settings["temperature"]
            left = cut_as_defined(scores, **cuts)
            assert left[whole[at][position]]
            expected.append(scores[whole[at][position]] - np.log(np.exp(scores[left]).sum()))
        np.testing.assert_allclose(generation.drawn_logps, expected, atol=2e-4)
        if len(settings) > 1:
            assert np.abs(np.array(generation.drawn_logps) - generation.logps).max() > 0.1
        else:
            np.testing.assert_allclose(generation.drawn_logps, generation.logps, atol=1e-6)


def test_drawn_log_probs_are_zero_at_temperature_zero(model):
    (generation,) = drawn(model, prompts(9), 70, stop=(), logps=True)
    assert generation.drawn_logps == [0.0] * 70 and min(generation.logps) < 0


def test_the_penalty_counts_the_whole_context(model):
    """As transformers defines it: over all tokens of prompt, earlier turns and reply."""
    (row,) = prompts(70)
    session = session_of(model, [row])
    for _ in range(2):
        for token in session.reply(6, repetition_penalty=1.7, stop=(), among=[0])[0]:
            logits = np.array(full_logits(model, padded([row]))[0, len(row) - 1])
            seen = sorted(set(row))
            logits[seen] = np.where(logits[seen] < 0, logits[seen] * 1.7, logits[seen] / 1.7)
            assert token == logits.argmax()
            row = [*row, token]
        row = [*row, 3, 4]
        session.replace(0, row)
    assert replies(model, [row], 8, repetition_penalty=1.7) != replies(model, [row], 8)
