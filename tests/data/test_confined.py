"""Chat templates in a process of their own: the text of transformers, within limits of time and memory."""

import copy
import os
import signal
import threading
import time
import warnings

import pytest

from aloe_jax.data import confined
from aloe_jax.data.confined import render
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from tests.conversations import conversation
from tests.data.families import FAMILIES, loaded
from tests.data.prepared import trees_of

NODES = [(-1, "system", "Be kind."), (0, "user", "hi <b> é \U0001f600"), (1, "assistant", "ho"), (2, "user", "so")]
CHAT = [{"role": role, "content": content} for _, role, content in NODES]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def text_of(template, **values):
    return render("T", template, values, NODES, [(3, True)])[0]


@pytest.mark.parametrize(
    "template",
    [
        *(family.template for family in FAMILIES.values() if family.name != "gemma"),
        PLAIN,
        "{{ messages | tojson }}{{ messages | tojson(indent=1) }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
        "a{% generation %}b{{ 1 }}{% endgeneration %}c",
        "{% set ns = namespace(a=1) %}{% set ns.b = 2 %}{{ ns.a }}{{ ns.b }}{{ dict(c=3).c }}",
        "{%- macro f(x) -%}<{{ x }}>{%- endmacro -%}{{ f(messages[1].content) }}{{ f(tools) }}{{ f(documents) }}",
        "  {% if add_generation_prompt %}  x\n  {% endif %}\n  y",
        "{{ messages[0]['role'].upper() }}{{ messages[1:] | map(attribute='content') | join('|') }}{{ nothing }}",
        "{{ bos_token }}{{ eos_token }}{{ pad_token }}{% if enable_thinking is defined %}y{% endif %}",
    ],
)
def test_it_is_the_text_of_transformers(template):
    tokenizer = loaded("llama3")[1]
    values = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    if "strftime_now" in template:
        values["date_string"] = "26 Jul 2024"
    expected = tokenizer.apply_chat_template(
        CHAT, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=False, **values
    )
    assert text_of(template, **values, enable_thinking=False) == expected


BOMBS = {
    "repeats": "{{ 'a' * 10 ** 10 }}",
    "long": "{{ 'a' * 10 ** 8 }}",
    "range": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "doubles": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "nests": "{% set n = namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "branches": "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "width": "{{ '%2000000000d' % 1 }}",
    "fills": "{{ 'x' | center(3 * 10 ** 9) }}",
    "list": "{{ ([0] * 10 ** 10) | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "includes": "{% include 'x' %}",
    "replaces": "{{ ('a' * 10 ** 6).replace('', 'b' * 10 ** 6) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_without_end_is_refused_in_seconds(name):
    start = time.monotonic()
    with pytest.raises(AloeError, match=r"^T: the chat template refuses the messages \(.+\)$") as caught:
        text_of(BOMBS[name])
    assert time.monotonic() - start < 20 and len(str(caught.value)) < 500
    assert text_of(PLAIN).endswith("user: so\n")  # the next one works


def test_a_template_that_ends_badly_for_some_messages_only_is_refused_there():
    tokenizer = copy.deepcopy(loaded("llama3")[1])
    bomb = "{% for m in messages %}{% if 'bad' in m.content %}{{ 'a' * 10 ** 10 }}{% endif %}{% endfor %}"
    tokenizer.chat_template = FAMILIES["llama3"].template + bomb
    template = ChatTemplate(tokenizer)
    with pytest.raises(AloeError, match="more memory than any chat template needs"):
        trees_of(template, conversation(2))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "'__class__' of 'list' object is unsafe"),
        ("{{ messages.append(1) }}", "not callable|unsafe|append"),
        ("{{ raise_exception('roles\n must \x00 alternate') }}", r"\(roles must .* alternate\)"),
        ("{{ '\\ud83d' }}", "half a character"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{% if %}", "line 1: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_other_faults_are_told_in_one_line(template, message):
    with pytest.raises(AloeError, match=message) as caught:
        text_of(template)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_template_sees_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "secret-of-tests")
    confined._process().close()
    text_of(PLAIN)
    pid = child()
    with open(f"/proc/{pid}/environ", "rb") as file:
        environment = file.read()
    assert b"secret-of-tests" not in environment and b"PYTHONPATH=" in environment


def child():
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        children = file.read().split()
    for pid in children:
        with open(f"/proc/{pid}/cmdline") as file:
            if "jinja_process" in file.read():
                return int(pid)
    raise AssertionError("no process")


def test_a_killed_process_is_replaced():
    text_of(PLAIN)
    os.kill(child(), signal.SIGKILL)
    time.sleep(0.1)
    assert text_of(PLAIN).endswith("user: so\n")


def test_a_process_killed_while_it_renders_is_replaced_and_the_template_is_not_blamed():
    slow = "{% for i in range(30000) %}{% for j in range(10) %}{% endfor %}{% endfor %}" + PLAIN
    text_of(PLAIN)
    killer = threading.Timer(0.05, os.kill, (child(), signal.SIGKILL))
    killer.start()
    assert text_of(slow).endswith("user: so\n")
    killer.join()


def test_a_fork_while_another_thread_renders_can_render():
    slow = "{% for i in range(30000) %}{% for j in range(10) %}{% endfor %}{% endfor %}" + PLAIN
    text_of(PLAIN)
    thread = threading.Thread(target=text_of, args=(slow,))
    thread.start()
    time.sleep(0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tried
        forked = os.fork()
    if forked == 0:
        signal.alarm(20)  # ends it where it waits for ever
        os._exit(0 if text_of(PLAIN).endswith("user: so\n") else 1)
    assert os.waitpid(forked, 0)[1] == 0
    thread.join()


def test_threads_get_their_own_answers():
    found = {}

    def ask(number):
        for _ in range(50):
            found.setdefault(number, set()).add(text_of("{{ x }}", x=number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {str(number)} for number in range(8)}


def test_large_messages_have_room():
    text = "é" * 5_000_000
    (rendered,) = render("T", PLAIN, {}, [(-1, "user", text)], [(0, False)])
    assert rendered == f"user: {text}\n"
