"""Tokenizer directories as they are found: what is read from them, and what is said of unusable ones."""

import json
import shutil

import pytest

from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.tokenizer import generation_stops, load_tokenizer
from aloe_jax.errors import AloeError
from tests.conversations import conversation
from tests.data.families import FAMILIES, write_tokenizer
from tests.data.prepared import trees_of


@pytest.fixture
def llama(tmp_path):
    return write_tokenizer(FAMILIES["llama3"], tmp_path / "llama")


def test_generation_settings_may_have_one_id_several_or_none(llama):
    file = llama / "generation_config.json"
    assert len(generation_stops(llama)) == 3
    file.write_text('{"eos_token_id": 7}')
    assert generation_stops(llama) == (7,)
    assert ChatTemplate(load_tokenizer(llama)).stop[-1] == 7
    file.write_text("{}")
    assert generation_stops(llama) == ()
    for text in ("{", "[1]"):
        file.write_text(text)
        with pytest.raises(AloeError, match=r"generation_config\.json: cannot read the generation settings"):
            generation_stops(llama)
    file.unlink()
    assert generation_stops(llama) == ()


def test_a_bos_that_the_template_forgets_is_put_into_it_and_stays(tmp_path, capsys):
    path = write_tokenizer(FAMILIES["zephyr"], tmp_path / "zephyr")
    tokenizer = load_tokenizer(path)
    assert f"{path}: the chat template writes no <s>" in capsys.readouterr().err
    tokenizer.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.chat_template == tokenizer.chat_template != FAMILIES["zephyr"].template
    assert capsys.readouterr().err == ""
    prompt = ChatTemplate(again).prompt(conversation(1).messages(0))
    assert prompt[0] == again.bos_token_id and prompt.count(again.bos_token_id) == 1


def test_a_template_that_writes_its_bos_is_left_alone(llama, capsys):
    assert load_tokenizer(llama).chat_template == FAMILIES["llama3"].template
    assert capsys.readouterr().err == ""


def test_settings_left_in_the_files_do_not_cut_split_or_pad(llama):
    expected = trees_of(ChatTemplate(load_tokenizer(llama)), conversation(4))
    core = json.loads((llama / "tokenizer.json").read_text())
    core["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    core["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "!",
    }  # fmt: skip
    (llama / "tokenizer.json").write_text(json.dumps(core))
    settings = json.loads((llama / "tokenizer_config.json").read_text()) | {"split_special_tokens": True}
    (llama / "tokenizer_config.json").write_text(json.dumps(settings))
    assert trees_of(ChatTemplate(load_tokenizer(llama)), conversation(4)) == expected


def test_one_of_several_named_templates_is_the_default(llama):
    tokenizer = load_tokenizer(llama)
    expected = trees_of(ChatTemplate(tokenizer), conversation(2))
    tokenizer.chat_template = {"default": FAMILIES["llama3"].template, "tool_use": "{{ tools }}"}
    assert trees_of(ChatTemplate(tokenizer), conversation(2)) == expected
    tokenizer.chat_template = {"tool_use": "{{ tools }}", "rag": ""}
    with pytest.raises(AloeError, match="several chat templates and none of them is the default"):
        ChatTemplate(tokenizer)


def test_unusable_files_are_told_in_one_line(llama, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(llama, broken)
    (broken / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    with pytest.raises(AloeError, match=r"broken: cannot load a tokenizer \([^\n]*\)"):
        load_tokenizer(broken)
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer.model").write_bytes(b"\x0a\x0b")
    with pytest.raises(AloeError, match=r"broken: cannot load a tokenizer \([^\n]*no tokenizer\.json"):
        load_tokenizer(broken)


def test_a_template_that_cannot_be_used_is_told_in_one_line(llama):
    for template, message in (
        ("{% for m in messages %}", "chat template refuses the messages"),
        ("{{ messages[0].content.nothing() }}", "chat template refuses the messages"),
        ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "without a special token"),
    ):
        tokenizer = load_tokenizer(llama)
        tokenizer.chat_template = template
        with pytest.raises(AloeError, match=message):
            ChatTemplate(tokenizer)
    tokenizer = load_tokenizer(llama)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|not-a-token|>{% endfor %}"
    with pytest.raises(AloeError, match="without a special token"):
        ChatTemplate(tokenizer)


def test_a_template_that_ends_some_replies_only_is_told(llama):
    tokenizer = load_tokenizer(llama)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}"
        "{% if 'bad' not in m.content %}{{ '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    with pytest.raises(UnstableTemplateError, match="turn 1: the chat template does not end the rejected reply"):
        trees_of(ChatTemplate(tokenizer), conversation(2))


OPENS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start_header_id|>{{ m.content.split('</think>')[-1] }}"
    "<|eot_id|>{% else %}{{ m.role + m.content }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|><think>\n{% endif %}"
)


@pytest.mark.parametrize("opened", ["<think>\n", "<think>", "<thinking>\n\n", "<reasoning>"])
def test_a_prompt_that_opens_a_thought_is_told_with_what_to_do(llama, opened):
    tokenizer = load_tokenizer(llama)
    tokenizer.chat_template = OPENS.replace("<think>\n{% endif", opened + "{% endif")
    template = ChatTemplate(tokenizer)
    assert template.prompt(conversation(1).messages(0))  # it can be talked to
    told = (
        rf"ends the prompt for a reply with {opened.strip()} and writes none in a reply.* take {opened.strip()} out of"
    )
    with pytest.raises(UnstableTemplateError, match=told):
        trees_of(template, conversation(1))
    tokenizer.chat_template = OPENS.replace("<think>\n{% endif", "{% endif")  # what is advised
    assert len(trees_of(ChatTemplate(tokenizer), conversation(2))) == 1


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}<|eot_id|>{% endfor %}", "leaves out the user's message"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}",
            "the reply",
        ),
    ],
)
def test_a_template_that_leaves_out_what_was_said_is_refused(llama, template, told):
    tokenizer = load_tokenizer(llama)
    tokenizer.chat_template = template
    with pytest.raises(AloeError, match=told):
        ChatTemplate(tokenizer)


def test_a_panic_of_the_library_is_one_line(llama, capfd):
    core = json.loads((llama / "tokenizer.json").read_text())
    core["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    (llama / "tokenizer.json").write_text(json.dumps(core))
    with pytest.raises(AloeError, match=r"llama: cannot load a tokenizer \([^\n]*\)"):
        load_tokenizer(llama)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("ids", ['"7"', "[[1]]", "true", "1.5", "9999999999999", '{"a": 1}'])
def test_generation_settings_that_are_no_ids_are_refused(llama, ids):
    (llama / "generation_config.json").write_text(f'{{"eos_token_id": {ids}}}')
    with pytest.raises(
        AloeError, match=r"generation_config\.json: eos_token_id is .*; expected the number of a token, or null"
    ):
        generation_stops(llama)
