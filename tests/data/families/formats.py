"""What the families' chats look like, written anew as short Jinja templates: same text, fewer features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "llama3", "qwen", "neox", "mistral", "legacy", "gemma"
]  # how the tokenizer splits text and treats spaces


@dataclass(frozen=True)
class Family:
    """A chat format and the tokenizer that goes with it."""

    name: str
    kind: Kind
    template: str
    special: tuple[str, ...]  # control tokens
    end: str  # what ends a reply
    eos: str
    bos: str | None = None
    adds_bos: bool = False  # the tokenizer begins a text with BOS by itself
    plain: tuple[str, ...] = ()  # tokens of their own that are not control tokens
    generation_eos: tuple[str, ...] = ()  # in generation_config.json
    adds_spaces: bool = False  # the tokenizer puts a space behind every control token
    stable: bool = True  # a path's text begins with the text of the path before it
    open_end: bool = False  # the template does not end a last reply
    trail: str = ""  # what follows the end of a last reply


def _loop(user: str, assistant: str, opening: str, before: str = "", system: str = "") -> str:
    """A template from what it writes for each role, with `C` for the content."""
    roles = {"user": user, "assistant": assistant} | ({"system": system} if system else {})
    branches = "".join(
        f"{{%- {'if' if number == 0 else 'elif'} m.role == '{role}' -%}}{text.replace('C', '{{- m.content -}}')}"
        for number, (role, text) in enumerate(roles.items())
    )
    return (
        f"{before}{{%- for m in messages -%}}{branches}{{%- endif -%}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{opening}{{%- endif -%}}"
    )


def _lit(text: str) -> str:
    """Literal text in a template, newlines kept."""
    return "{{- " + repr(text) + " -}}"


def _im(default: str = "") -> str:
    """<|im_start|> chats; without a system message `default` is written in its place."""
    inserted = _lit(f"<|im_start|>system\n{default}<|im_end|>\n")
    before = f"{{%- if messages[0].role != 'system' -%}}{inserted}{{%- endif -%}}" if default else ""
    turn = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    return _loop(turn, turn, _lit("<|im_start|>assistant\n"), before, turn)


def _tulu(close: str, opening_text: str = "") -> str:
    """Role markers that are plain text, a reply closed by `close`."""
    user = "{{- '<|user|>\n' + m.content + '\n' -}}"
    system = "{{- '<|system|>\n' + m.content + '\n' -}}"
    reply = "{{- '<|assistant|>\n' + m.content -}}" + close
    return _loop(user, reply, _lit("<|assistant|>\n"), opening_text, system)


_BOS, _EOS, _NEWLINE = "{{- bos_token -}}", "{{- eos_token -}}", _lit("\n")
_NOT_LAST, _LAST, _END_IF = "{%- if not loop.last -%}", "{%- if loop.last -%}", "{%- endif -%}"
_ALTERNATE = (
    "{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate, the user first') -}}{%- endif -%}{%- endfor -%}"
)
_HEADER = "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' -}}"
_HEADER_OPENING = _lit("<|start_header_id|>assistant<|end_header_id|>\n\n")
_DATED = (
    "{%- if date_string is not defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n<|eot_id|>' -}}"
)
_GEMMA_TURN = "{{- '<start_of_turn>' + {} + '\n' + m.content | trim + '<end_of_turn>\n' -}}"
_GEMMA_NO_SYSTEM = "{%- if messages[0].role == 'system' -%}{{- raise_exception('no system role here') -}}{%- endif -%}"
# System text in front of the last user message, as long as that is the last message of all.
_MISTRAL = (
    "{%- set system = '' -%}{%- set talk = messages -%}"
    "{%- if messages[0].role == 'system' -%}"
    "{%- set system = messages[0].content + '\n\n' -%}{%- set talk = messages[1:] -%}{%- endif -%}"
    "{{- bos_token -}}{%- for m in talk -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate') -}}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content | trim + eos_token -}}{%- endif -%}{%- endfor -%}"
)
# Reasoning is dropped from all but the last reply, which gets an empty block where it has none.
_QWEN3 = (
    "{%- set spot = namespace(last=0) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set spot.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m.role != 'assistant' -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- else -%}"
    "{%- set parts = m.content.split('</think>') -%}"
    "{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' -%}"
    "{%- set block = '<think>\n' + thought + '\n</think>\n\n' if loop.index0 > spot.last else '' -%}"
    "{{- '<|im_start|>assistant\n' + block + parts[-1].lstrip('\n') + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
_LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
_LLAMA3_EOS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SP = ("<unk>", "<s>", "</s>")
_TEXT = "<|endoftext|>"

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llama3", "llama3", _loop(_HEADER, _HEADER, _HEADER_OPENING, _BOS, _HEADER), _LLAMA3,
            end="<|eot_id|>", eos="<|end_of_text|>", bos="<|begin_of_text|>", adds_bos=True,
            generation_eos=_LLAMA3_EOS,
        ),
        Family(
            "llama3-dated", "llama3", _loop(_HEADER, _HEADER, _HEADER_OPENING, _BOS + _DATED), _LLAMA3,
            end="<|eot_id|>", eos="<|eot_id|>", bos="<|begin_of_text|>", adds_bos=True, generation_eos=_LLAMA3_EOS,
        ),
        Family(
            "mistral", "mistral", _MISTRAL, (*_SP, "[INST]", "[/INST]"),
            end="</s>", eos="</s>", bos="<s>", adds_bos=True,
        ),
        Family(
            "qwen2", "qwen", _im("You are a helpful assistant."), _IM, end="<|im_end|>", eos="<|im_end|>", trail="\n",
            generation_eos=("<|im_end|>", _TEXT),
        ),
        Family(
            "qwen3", "qwen", _QWEN3, _IM, end="<|im_end|>", eos="<|im_end|>", trail="\n",
            plain=("<think>", "</think>"), stable=False,
        ),
        Family("olmo", "neox", _tulu(_EOS + _NEWLINE, _EOS), (_TEXT,), end=_TEXT, eos=_TEXT, trail="\n"),
        Family(
            "olmo2", "llama3", _tulu(_EOS + _NOT_LAST + _NEWLINE + _END_IF, _BOS), (_TEXT,),
            end=_TEXT, eos=_TEXT, bos=_TEXT,
        ),
        Family(
            "open-end", "neox", _tulu(_NOT_LAST + _EOS + _NEWLINE + _END_IF, _EOS), (_TEXT,),
            end=_TEXT, eos=_TEXT, open_end=True,
        ),
        Family(
            "end-if-last", "neox", _tulu(_LAST + _EOS + _END_IF + _NEWLINE, _EOS), (_TEXT,),
            end=_TEXT, eos=_TEXT, stable=False, trail="\n",
        ),
        Family(
            "im-final-eos", "qwen",
            _im() + "{%- if not add_generation_prompt -%}{{- eos_token -}}{%- endif -%}", _IM,
            end="<|im_end|>", eos=_TEXT, trail="\n<|endoftext|>",
        ),
        Family(
            "gemma", "gemma",
            _loop(
                _GEMMA_TURN.replace("{}", "'user'"), _GEMMA_TURN.replace("{}", "'model'"),
                _lit("<start_of_turn>model\n"), _BOS + _GEMMA_NO_SYSTEM + _ALTERNATE,
            ),
            ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
            end="<end_of_turn>", eos="<eos>", bos="<bos>", adds_bos=True, trail="\n",
            generation_eos=("<eos>", "<end_of_turn>"),
        ),
        Family(
            "zephyr", "mistral",
            _loop(
                "{{- '<|user|>\n' + m.content + eos_token + '\n' -}}",
                "{{- '<|assistant|>\n' + m.content + eos_token + '\n' -}}",
                _lit("<|assistant|>\n"), system="{{- '<|system|>\n' + m.content + eos_token + '\n' -}}",
            ),
            _SP, end="</s>", eos="</s>", bos="<s>", adds_bos=True, trail="\n",
        ),
        Family(
            "mistral-legacy", "legacy", _MISTRAL, (*_SP, "[INST]", "[/INST]"),
            end="</s>", eos="</s>", bos="<s>", adds_bos=True, adds_spaces=True,
        ),
        Family(
            "tulu", "mistral", _tulu(_EOS + _NOT_LAST + _NEWLINE + _END_IF), _SP,
            end="</s>", eos="</s>", bos="<s>", adds_bos=True,
        ),
    )
}  # fmt: skip
