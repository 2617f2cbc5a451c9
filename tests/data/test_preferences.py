"""Preference records: their forms, the trie that makes trees of them, and trees exported and read back."""

import copy
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation, Turn
from aloe_jax.data.packing import pack
from aloe_jax.data.preferences import Forest, read_comparison
from aloe_jax.data.selection import BOTH, PAIRS, PLAIN, PREFERRED
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from datagen.convert import trl
from tests.conversations import PERSONA, conversation
from tests.data.families import FAMILIES, loaded
from tests.data.jsonl import preference
from tests.data.prepared import prepare, trees_of
from tests.data.test_packing import path_of

BRANCHES = ("preferred", "rejected")


def forest_of(records):
    return list(Forest(read_comparison(record, f"p.jsonl line {n}") for n, record in enumerate(records, 1)).trees())


def exported(talks):
    """The records of conversation trees as TRL has them: one a pair, each with its whole prompt."""
    return [json.loads(line) for line in trl.write(talks, lambda what, times: None)]


def random_talk(random: np.random.Generator, name: str) -> Conversation:
    """A tree in which any reply may be answered."""
    turns: list[Turn] = []
    free: list[tuple[int, str] | tuple[None, None]] = [(None, None)]
    for number in range(int(random.integers(1, 8))):
        follows, after = free.pop(int(random.integers(len(free))))
        texts = (" ".join(f"{word}{k}" for k in range(random.integers(1, 6))) for word in ("ask", "good", "bad"))
        user, good, bad = (f"{text} {name} {number}" for text in texts)
        turns.append(Turn(user=user, preferred=good, rejected=bad, continued="preferred", follows=follows, after=after))
        free += [(number, branch) for branch in BRANCHES]
    return Conversation(id=name, persona=PERSONA, turns=turns)


def path_tokens(tree, node):
    return tuple(token for index in path_of(tree, node) for token in tree.nodes[index].tokens)


def pairs_of(trees):
    """What a preference loss sees: prompt, both replies as they are scored, and the turn, of every pair."""
    found = Counter()
    for tree in trees:
        for pair in tree.pairs:
            nodes = [tree.nodes[node] for node in (pair.preferred, pair.rejected)]
            prompt = path_tokens(tree, nodes[0].parent)
            found[(prompt, *(tuple(node.tokens[: node.scored]) for node in nodes), pair.turn)] += 1
    return found


seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_trees_written_pair_by_pair_become_the_trees_again(name, seed):
    random, template = np.random.default_rng(seed), loaded(name)[2]
    talks = [random_talk(random, f"c{k}") for k in range(3)]
    records = exported(talks)
    random.shuffle(records)
    trees = [tree for talk in talks for tree in trees_of(template, talk)]
    again = [tree for talk in forest_of(records) for tree in trees_of(template, talk)]
    assert sorted(tree.length for tree in again) == sorted(tree.length for tree in trees)
    assert pairs_of(again) == pairs_of(trees)
    one, two = (pack(made, 2048)[1] for made in (trees, again))
    assert (one.tokens, one.replies, one.pairs, one.trees) == (two.tokens, two.replies, two.pairs, two.trees)


def test_without_the_trie_the_same_pairs_take_many_times_the_tokens():
    """A control of the property above: record by record nothing is shared."""
    template, records = loaded("llama3")[2], exported([conversation(10)])
    joined = [tree for talk in forest_of(records) for tree in trees_of(template, talk)]
    single = [tree for record in records for talk in forest_of([record]) for tree in trees_of(template, talk)]
    assert pairs_of(joined) == pairs_of(single) and len(joined) == 1 and len(single) == 10
    assert sum(tree.length for tree in single) > 3 * joined[0].length


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_names_of_replies_do_not_depend_on_order_or_company(seed):
    random, template = np.random.default_rng(seed), loaded("llama3")[2]
    records = exported([random_talk(random, f"c{k}") for k in range(3)])

    def names(records):
        trees = [tree for talk in forest_of(records) for tree in trees_of(template, talk)]
        return {path_tokens(tree, place): node.id for tree in trees for place, node in enumerate(tree.nodes) if node.id}

    all_names = names(records)
    assert len(set(all_names.values())) == len(all_names)
    random.shuffle(records)
    assert names(records) == all_names
    few = names(records[: len(records) // 2])
    for path, name in few.items():
        if path in all_names:  # at the end of its path a reply may have a newline that an answered one has not
            assert all_names[path] == name


def test_several_pairs_below_a_prompt_and_both_replies_continued():
    records = [
        preference(["hi"], "one", "two"),
        preference(["hi"], "two", "three"),
        preference(["hi", "two", "why"], "four", "five"),
        preference(["hi", "one", "why"], "six", "seven"),
        preference(["hi", "one", "how", "unjudged", "so"], "eight", "nine"),
    ]
    (talk,) = forest_of(records)
    (tree,) = trees_of(loaded("llama3")[2], talk)
    texts = {node: loaded("llama3")[1].decode(tree.nodes[node].tokens) for pair in tree.pairs for node in pair_of(pair)}
    found = [(pair.turn, *(texts[node].removesuffix("<|eot_id|>") for node in pair_of(pair))) for pair in tree.pairs]
    assert sorted(found) == [
        (0, "one", "two"), (0, "two", "three"), (1, "four", "five"), (1, "six", "seven"), (2, "eight", "nine"),
    ]  # fmt: skip
    unjudged = [node for node in tree.nodes if node.turn == 1 and not node.scored and not node.id]
    assert len(unjudged) == 4  # three prompts and a reply that is only history
    kept = prepare([talk], loaded("llama3")[2], 512, PREFERRED, "p.jsonl")
    assert kept.report.replies == 5  # "two" is preferred once, so it counts
    both = prepare([talk], loaded("llama3")[2], 512, BOTH, "p.jsonl")
    assert both.report.replies == 9
    with pytest.raises(AloeError, match=r"does not record which reply was written without .* sft.replies=preferred"):
        prepare([talk], loaded("llama3")[2], 512, PLAIN, "p.jsonl")


def pair_of(pair):
    return pair.preferred, pair.rejected


def test_another_system_message_is_another_tree():
    plain, kind = preference(["hi"], "a", "b"), preference(["hi", "a", "so"], "c", "d", "Be kind.")
    assert len(forest_of([plain, kind])) == 2
    assert len(forest_of([plain, preference(["hi", "a", "so"], "c", "d")])) == 1


# ---------------------------------------------------------------- forms


def test_all_forms_say_the_same():
    whole = preference(["hi", "hello", "why"], "so", "well")
    implicit = {name: [*whole["prompt"], *whole[name]] for name in ("chosen", "rejected")}
    expected = read_comparison(whole, "w")
    assert expected.said == ("hi", "hello", "why") and (expected.preferred, expected.rejected) == ("so", "well")
    assert read_comparison(implicit, "w") == expected
    assert read_comparison(implicit | {"prompt": "why", "messages": []}, "w") == expected  # as UltraFeedback has it
    assert read_comparison(whole | {"chosen": "so", "rejected": "well", "score": 3}, "w") == expected
    plain = {"prompt": "why", "chosen": "so", "rejected": "well"}
    assert read_comparison(plain, "w") == read_comparison(preference(["why"], "so", "well"), "w")
    kind = preference(["why"], "so", "well", "Be kind.")
    assert read_comparison(kind, "w").system == "Be kind."


GOOD, OTHER = preference(["hi"], "so", "well"), preference(["ho"], "so", "well")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (GOOD | {"rejected": None}, "w: rejected: is missing; a preference has"),
        ({"chosen": "a", "rejected": "b"}, "w: prompt: is missing; give it, or whole dialogues"),
        (GOOD | {"rejected": GOOD["chosen"]}, "w: chosen, rejected: the two replies are equal; remove the record"),
        (preference(["hi"], "so", " so\n"), "w: chosen, rejected: the two replies are equal"),
        (preference(["hi"], "so", " "), r"w: rejected\.0\.content: is empty"),
        ({"prompt": "hi", "chosen": "", "rejected": "b"}, "w: chosen: is empty"),
        ({"prompt": "hi", "chosen": "a", "rejected": 3}, "w: rejected: expected text, found int"),
        (GOOD | {"prompt": []}, "w: prompt: is empty"),
        (preference(["hi", "so"], "a", "b"), "w: prompt: must end with a user message"),
        (GOOD | {"chosen": []}, "w: chosen: expected one message of the assistant behind the prompt, found 0"),
        (GOOD | {"chosen": ["so"]}, "w: chosen: expected one message of the assistant"),
        (GOOD | {"chosen": GOOD["chosen"] * 2}, "w: chosen: expected one message .* found 2 messages"),
        (
            {"chosen": GOOD["prompt"] + GOOD["chosen"], "rejected": OTHER["prompt"] + OTHER["rejected"]},
            "w: chosen, rejected: have no common beginning",
        ),
        ({name: [*GOOD["prompt"], *GOOD["chosen"]] for name in ("chosen", "rejected")}, "the two replies are equal"),
        (GOOD | {"prompt": GOOD["chosen"]}, r"w: prompt\.0\.role: is 'assistant' where 'user' is due"),
    ],
)  # fmt: skip
def test_what_is_no_preference_is_refused_by_field(record, told):
    with pytest.raises(AloeError, match=told) as caught:
        read_comparison(record, "w")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- pairs that are none as tokens


CUTS = (  # what stands before a bar is left out
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + m['content'].split('|')[-1] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("rejected", "told"),
    [
        ("x|", "the rejected reply is empty; remove"),
        ("x|a", "the preferred and the rejected reply are the same tokens"),
    ],
)
def test_pairs_that_the_template_makes_none_are_refused_with_their_record(rejected, told):
    tokenizer = copy.deepcopy(loaded("llama3")[1])
    tokenizer.chat_template = CUTS
    talks = forest_of([preference(["hi"], "a", "b"), preference(["hi", "a", "so"], "y|a", rejected)])
    assert prepare(talks, loaded("llama3")[2], 512, PAIRS, "p.jsonl").report.pairs == 2
    with pytest.raises(AloeError, match=rf"p\.jsonl line 2: {told}"):
        prepare(talks, ChatTemplate(tokenizer), 512, PAIRS, "p.jsonl")


def test_equal_replies_of_a_conversation_tree_are_refused_in_dpo_only():
    template, turn = loaded("llama3")[2], Turn(user="hi", preferred="same", rejected="same", continued="preferred")
    talk = Conversation(id="c7", persona=PERSONA, turns=[*conversation(1).turns, turn])
    with pytest.raises(AloeError, match=r"conversation c7, turn 2: the preferred and the rejected reply are the same"):
        prepare([talk], template, 512, PAIRS, "trees.jsonl")
    assert prepare([talk], template, 512, BOTH, "trees.jsonl").report.replies == 4


# ---------------------------------------------------------------- trees longer than a row


def test_a_beginning_that_many_share_does_not_cost_turns():
    template = loaded("llama3")[2]
    records = [preference(["hello", "hi", f"question {k}"], f"good {k}", f"bad {k}") for k in range(40)]
    talks = forest_of(records)
    (tree,) = trees_of(template, talks[0])
    assert len(talks) == 1
    row = tree.length // 3
    made = prepare(talks, template, row, PAIRS, "p.jsonl")
    assert made.report.pairs == 40 and made.report.skipped == made.report.shortened == 0
    assert 4 <= made.report.trees <= 8
    sft = prepare(talks, template, row, PREFERRED, "p.jsonl")
    assert sft.report.replies == 40 and sft.report.shortened == 0


@settings(max_examples=40, deadline=None)
@given(seed=seeds, share=st.floats(0.1, 1.0))
def test_splitting_keeps_every_pair_on_its_path(seed, share):
    (tree,) = trees_of(loaded("llama3")[2], random_talk(np.random.default_rng(seed), "c"))
    length = max(1, int(share * tree.length))
    parts = tree.split(length)
    assert pairs_of(parts) == pairs_of([tree])
    for part in parts:
        assert part.length <= length or len(part.pairs) == 1
        leaves = set(range(len(part.nodes))) - {node.parent for node in part.nodes}
        assert leaves <= {node for pair in part.pairs for node in pair_of(pair)}
        scored = {place for place, node in enumerate(part.nodes) if node.scored}
        assert scored == {node for pair in part.pairs for node in pair_of(pair)}
    sft = tree.keep_replies([pair.preferred for pair in tree.pairs])
    replies = Counter(path_tokens(sft, place) for place, node in enumerate(sft.nodes) if node.scored)
    divided = [(part, place) for part in sft.split(length) for place, node in enumerate(part.nodes) if node.scored]
    assert Counter(path_tokens(part, place) for part, place in divided) == replies


def test_a_pair_too_long_for_a_row_is_skipped_and_counted():
    records = [preference(["hi"], "a", "b"), preference(["hi", "a", "so " * 200], "c", "d")]
    made = prepare(forest_of(records), loaded("llama3")[2], 64, PAIRS, "p.jsonl")
    assert made.report.pairs == 1 and made.report.skipped == 1 and "1 trees skipped" in str(made.report)


def dialogues(prompt, system=None):
    start = [{"role": "system", "content": system}] if system else []
    start += [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}
    ]  # fmt: skip
    ends = [[*start, {"role": "assistant", "content": reply}] for reply in ("good", "bad")]
    return {"prompt": prompt, "chosen": ends[0], "rejected": ends[1]}


def said(*texts, system=None):
    roles = ("user", "assistant")
    opening = [{"role": "system", "content": system}] if system else []
    return opening + [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def test_the_system_message_of_a_prompt_beside_whole_dialogues_is_used():
    for prompt in (said("a", "b", "c", system="Be brief."), said("c", system="Be brief.")):
        assert read_comparison(dialogues(prompt), "f").system == "Be brief."
    assert read_comparison(dialogues(said("a", "b", "c"), "Be brief."), "f").system == "Be brief."


@pytest.mark.parametrize(
    ("prompt", "system"),
    [
        (said("a", "x", "c"), None),
        (said("other"), None),
        (said("zero", "b", "a", "b", "c"), None),
        (said("a", "b", "c", system="Be brief."), "Be long."),
    ],
)
def test_a_prompt_that_is_not_how_the_dialogues_begin_is_refused(prompt, system):
    with pytest.raises(AloeError, match=r"^f line 1: prompt: is not how chosen and rejected begin"):
        read_comparison(dialogues(prompt, system), "f line 1")


def test_a_prompt_as_text_that_the_dialogues_do_not_hold_is_reported():
    for prompt, unused in (("c", {}), ("a ", {}), ("Human: a", {"prompt": None})):
        others = {}
        read_comparison(dialogues(prompt), "f", others)
        assert others == unused
