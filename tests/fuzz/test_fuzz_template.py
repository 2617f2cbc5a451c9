"""The door "template": whatever a chat template or a tokenizer's files say, it works, or is refused in one line."""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.errors import AloeError
from tests.conversations import conversation
from tests.data.families import FAMILIES, loaded, write_tokenizer
from tests.data.prepared import trees_of
from tests.fuzz.harness import fuzz, one_line

TALK = conversation(3)
PIECES = [
    "{% for m in messages %}", "{% endfor %}", "{{ m.role }}", "{{ m.content }}", "{{ m['content'] | trim }}",
    "\n",
    "{% if add_generation_prompt %}", "{% endif %}", "{% else %}", "{{ eos_token }}", "{{ bos_token }}", "<|eot_id|>",
    "<|start_header_id|>", "{% if loop.last %}", "{% set x = messages | length %}", "{{ x }}", "<think>",
    "{{ 'a' * x }}",
    "{% macro f(n) %}", "{% endmacro %}", "{{ f(1) }}", "{{ messages[-1].content }}", "{{ raise_exception('no') }}",
    "{% for i in range(100000) %}", "{{ 'a' * 10 ** 10 }}", "{{ 10 ** 10 ** 3 }}", "{% for i in range(10 ** 12) %}",
    "{{ [messages] * 10 ** 7 }}", "{{ 'x' | center(10 ** 9) }}", "{{ '%1000000000d' % 1 }}", "{{ messages | tojson }}",
    "{% set ns = namespace(l=[]) %}", "{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l }}", "{% include 'x' %}",
    "{{ ''.__class__ }}",
    "{{ messages.append(1) }}", "{% generation %}", "{% endgeneration %}", "{% break %}", "{{ strftime_now('%d') }}",
    "{{ 1 / 0 }}", "{{ messages[9] }}", "{{ undefined.x }}", "{{ '\ud83d' }}", "{{ '\\ud83d' }}", "{{ lipsum(9) }}",
    "{{ [1, 2] | random }}", "{% raw %}", "{% endraw %}", "{#", "#}", "{{", "}}", "{%", "%}", "((((", "))))",
    "\x00", "\ufdd0",
    "{{ m.content.split('</think>')[-1] }}", "{{ m.content | upper }}", "{{ dict(a=1) }}", "{{ ns }}", "{{ self }}",
    "{{ m.content | replace('', 'aaaaaaaaaa') }}", "{{ cycler }}", "{{ joiner }}", "{% import 'os' as os %}",
]  # fmt: skip


@st.composite
def templates(draw):
    """A family's template with pieces put in or taken out, or pieces alone."""
    text = draw(st.sampled_from([family.template for family in FAMILIES.values()] + [""]))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(text)))
        put = draw(st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES), st.text(max_size=5)))
        text = text[:place] + put + text[place + draw(st.sampled_from([0, 0, 0, 1, 20])) :]
    return text


def check_template(template):
    """What is made of a conversation: every reply scored through one end of turn, and a prompt."""
    trees = trees_of(template, TALK)
    assert sum(node.scored > 0 for tree in trees for node in tree.nodes) == 6
    for tree in trees:
        for node in tree.nodes:
            if node.scored:
                assert node.tokens[node.scored - 1] == template.stop[0]
    assert template.prompt(TALK.messages(2))


@pytest.mark.soak
def test_any_template_works_or_is_refused_in_one_line():
    kept = {name: loaded(name)[1] for name in ("llama3", "qwen2", "mistral")}
    worked = 0

    def check(pair):
        nonlocal worked
        name, text = pair
        tokenizer = copy.copy(kept[name])
        tokenizer.chat_template = text
        try:
            check_template(ChatTemplate(tokenizer))
        except AloeError as error:
            one_line(error).encode()
            return
        worked += 1

    tried = fuzz(st.tuples(st.sampled_from(sorted(kept)), templates()), check)
    print(f"{worked} worked")
    assert worked > tried / 50


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["<|eot_id|>", "", "LlamaTokenizer", "BPE", "NFKC", "\ud83d", -1, 2**40, 10**30, "</s>"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
KEYS = [
    "bos_token", "eos_token", "pad_token", "unk_token", "chat_template", "tokenizer_class", "add_bos_token",
    "add_prefix_space", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "model_max_length",
    "clean_up_tokenization_spaces", "auto_map", "legacy", "version", "model", "normalizer", "pre_tokenizer", "decoder",
    "post_processor", "added_tokens", "truncation", "padding", "type", "vocab", "merges", "eos_token_id",
]  # fmt: skip


@st.composite
def changes(draw):
    """Which file, and what to do to it."""
    file = draw(st.sampled_from(["tokenizer_config.json", "tokenizer.json", "generation_config.json"]))
    if draw(st.integers(0, 4)) == 0:
        return file, draw(st.one_of(st.binary(max_size=30), st.sampled_from([b"{", b"[" * 9999, b"1" * 9999, b"{}"])))
    steps = draw(st.lists(st.integers(0, 30), max_size=3))
    return file, (steps, draw(st.sampled_from(KEYS)), draw(VALUES), draw(st.booleans()))


def changed(values, steps, key, value, removes):
    """The values with `value` under some key, or without it."""
    inner = values
    for step in steps:
        below = [
            each for each in (inner.values() if isinstance(inner, dict) else inner) if isinstance(each, (dict, list))
        ]
        if not below:
            break
        inner = below[step % len(below)]
    if isinstance(inner, dict):
        present = [name for name in inner if name == key] or list(inner)[: 1 if removes else 0]
        for name in present if removes else [key]:
            if removes:
                del inner[name]
            else:
                inner[name] = value
    elif inner:
        inner[len(steps) % len(inner)] = value
    return values


@pytest.mark.soak
def test_any_tokenizer_works_or_is_refused_in_one_line():
    worked = 0
    with tempfile.TemporaryDirectory() as folder:
        roots = {}
        for name in ("llama3", "mistral"):
            roots[name] = write_tokenizer(FAMILIES[name], Path(folder) / name)
        place = Path(folder) / "model"

        def check(drawn):
            nonlocal worked
            name, made = drawn
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(roots[name], place)
            for file, change in made:
                if isinstance(change, bytes):
                    (place / file).write_bytes(change)
                    continue
                try:
                    values = json.loads((place / file).read_text())
                except (OSError, ValueError, RecursionError):
                    continue
                (place / file).write_text(json.dumps(changed(values, *change)))
            try:
                check_template(ChatTemplate(load_tokenizer(place)))
            except AloeError as error:
                one_line(error).encode()
                return
            worked += 1

        pair = st.tuples(st.sampled_from(sorted(roots)), st.lists(changes(), min_size=1, max_size=2))
        tried = fuzz(pair, check)
    print(f"{worked} worked")
    assert worked > tried / 50
