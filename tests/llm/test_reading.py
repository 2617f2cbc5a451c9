"""Answers are found in what models write around them: thoughts, drafts, prose, fences."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.roles import Inferred, PreferredReply, Rating, Texts, WrittenReply, parse_answer

DRAFT, ANSWER = '{"reason": "bland", "rating": 1}', '{"reason": "It fits.", "rating": 5}'

THOUGHTS = {
    "think": ("<think>", "</think>"),
    "in capitals, with blanks": ("< THINK >", "</ Think >"),
    "with attributes": ('<think budget="9">', "</think>"),
    "opened by the prompt": ("", "</think>"),
    "thinking": ("<thinking>", "</thinking>"),
    "reasoning": ("<reasoning>\n", "\n</reasoning>"),
    "thought": ("<thought>", "</thought>"),
    "reflection": ("<reflection>", "</reflection>"),
    "brackets": ("[THINK]", "[/THINK]"),
    "Kimi": ("◁think▷", "◁/think▷"),
    "Seed": ("<seed:think>", "</seed:think>"),
    "bars": ("<|thinking|>", "<|/thinking|>"),
    "thought tokens": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "Command": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "gpt-oss with a form": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
    "gpt-oss without its tokens": ("analysisWe rate it. ", "assistantfinal"),
    "escaped": ("&lt;think&gt;", "&lt;/think&gt;"),
}


@pytest.mark.parametrize("tags", THOUGHTS.values(), ids=THOUGHTS)
def test_drafts_in_thoughts_are_no_answers(tags):
    opening, closing = tags
    assert parse_answer(Rating, f"{opening}First: {DRAFT}? No.{closing}\n\n{ANSWER}").rating == 5
    assert parse_answer(Rating, f"{opening}The traits {{warm, curt}} count.{closing}{ANSWER}").rating == 5
    with pytest.raises(ValueError, match="no JSON object"):
        parse_answer(Rating, f"{opening}{DRAFT}{closing} I cannot say.")


@pytest.mark.parametrize("tags", THOUGHTS.values(), ids=THOUGHTS)
def test_thoughts_without_an_end_have_no_answer(tags):
    if tags[0]:
        with pytest.raises(ValueError, match="has no end"):
            parse_answer(Rating, f"{tags[0]} A first idea: {DRAFT}")
        again = tags[0].removeprefix("analysisWe rate it. ") or "<think>"
        with pytest.raises(ValueError, match="has no end"):
            parse_answer(Rating, f"{tags[0]}a{tags[1]}{again} Once more: {DRAFT}")


@pytest.mark.parametrize(
    "reason",
    [
        "it says </think> aloud",
        "<think>",
        "</think><think>",
        "[THINK]",
        "assistantfinal",
        "<|channel|>final<|message|>",
    ],
)
def test_a_tag_in_the_answers_own_words_is_no_tag(reason):
    answer = json.dumps({"reason": reason, "detail": {"rating": 1}, "rating": 4})
    for text in (answer, f"<think>{DRAFT}</think>{answer}", f"```json\n{answer}\n```"):
        assert parse_answer(Rating, text) == Rating(reason=reason, rating=4)


@pytest.mark.parametrize(
    "text",
    [
        f"Here is my verdict on the reply to {{user}}: {ANSWER}",
        f"The set {{warm, curt}} and {{}} and {{a: 1}}. {ANSWER} Hope {{that}} helps :}}",
        f"Draft:\n```json\n{DRAFT}\n```\nBetter:\n```json\n{ANSWER}\n```\nDone.",
        f"{DRAFT}\nOn a second look:\n{ANSWER}",
        f"{ANSWER}\n{ANSWER}",
        f"[{ANSWER}]",
        f"[{DRAFT}, {ANSWER}]",
        f"\ufeff{ANSWER}",
        f"{{{ANSWER}}}",
        f'{ANSWER}\n{{"note": "no answer of this form"}}',
        '{"reason": "It fits.", "detail": {"rating": 1}, "rating": 5}',
        '{"reason": "It fits.", "drafts": [{"rating": 1}, {"rating": 2}], "rating": 5}',
        f'{{"answer": {ANSWER}}}',
        f'{{"data": {{"list": [{ANSWER}]}}, "ok": true}}',
        f"<answer>{ANSWER}</answer>",
        '{"reason": "It\nfits\tand\r\nmore.", "rating": 5}',
        '{\n  "reason": "It fits.",\n\n  "rating": 5.0}',
        '{"reason": "a } and a { in it \\"}\\"", "rating": "5"}',
    ],
)
def test_the_last_object_of_the_form_is_the_answer(text):
    assert parse_answer(Rating, text).rating == 5


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"rating": true}', "not true or false"),
        ('{"rating": 1, "rating": 5}', "two values"),
        ('{"rating": 4.5}', "rating: "),
        ('{"rating": NaN}', "rating: "),
        ('{"a": {"rating": 1}, "b": {"rating": 5}}', "field required"),  # which of them nobody knows
        (f'{DRAFT} No: {{"reason": "better", "rati', "not valid JSON"),  # the end is missing, and the draft is none
        (f'{DRAFT} No: {{"reason": "better", "rating": 5', "not valid JSON"),
        (f"{DRAFT} No: {{", "ends within an object"),
        (f'{DRAFT} No: {{"rea', "ends within an object"),
        ("{'rating': 5}", "no JSON object"),
        ('{"rating": 5,}', "not valid JSON"),
        (f'{{"rating": {"9" * 5000}}}', "a number is too long"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        parse_answer(Rating, text)
    assert "\n" not in str(caught.value)


def test_other_forms_are_read_alike():
    assert parse_answer(PreferredReply, '<think>{"preferred": "B"}</think>{"preferred": "A"}').preferred == "A"
    assert parse_answer(Texts, 'I wrote {two}: {"texts": ["a", "b\nc"]}').texts == ["a", "b\nc"]
    assert parse_answer(Inferred, 'x{"profile": "", "personality": "P"}') == Inferred(profile="", personality="P")
    with pytest.raises(ValueError, match="character of value zero"):
        parse_answer(WrittenReply, '{"reply": "a\\u0000b"}')


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        '{"' * 500_000,
        '{"a":' * 200_000,
        '{"a":[' * 170_000,
        '{"a":x' * 170_000,
        "{}" * 500_000,
        '{"":1}' * 160_000,
        '{"' + "\\" * 1_000_000,
        "<" * 1_000_000,
        "<think " * 150_000,
        "<think>" * 150_000,
        "</think>" * 120_000,
        "<|channel|>final" * 60_000,
        ("<" + " " * 1000) * 1000,
        "{" + " " * 1_000_000,
        "[" * 1_000_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_megabyte_of_anything_is_read_in_no_time(text):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"\S"):
        parse_answer(Rating, text)
    assert time.process_time() - start < 4


def test_the_answer_at_the_end_of_a_megabyte_is_found():
    for filler in ("{" * 1_000_000, "<think>{}</think>" * 60_000, f"{DRAFT} " * 30_000):
        assert parse_answer(Rating, filler + ANSWER).rating == 5


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.text(), st.integers(1, 5))
def test_any_words_may_stand_in_a_reason(reason, more, rating):
    answer = json.dumps({"reason": reason, "rating": rating, "more": more}, ensure_ascii=False)
    assert parse_answer(Rating, f"<think>{DRAFT}</think>{answer}") == Rating(reason=reason.strip(), rating=rating)
