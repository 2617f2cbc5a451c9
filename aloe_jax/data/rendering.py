"""Messages → text through a tokenizer's own chat template, and which strings in it are control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aloe_jax.conversation import Message
from aloe_jax.data.confined import Job, Node, render
from aloe_jax.data.tokenizer import chat_template, named_tokens
from aloe_jax.data.tokenizer_files import TransformersTokenizer
from aloe_jax.errors import AloeError

# Stands inside text that only looks like a control token, where it is cut before it is encoded. Unicode keeps
# these code points for a program's own use; they are no part of any text.
MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# A template that writes today's date would give other tokens tomorrow: a run could not be resumed as it began.
TODAY = (
    "{%- macro strftime_now(format) -%}{{ {'%Y-%m-%d': '2024-07-26', '%d %B %Y': '26 July 2024', "
    "'%B %d, %Y': 'July 26, 2024'}.get(format, '26 Jul 2024') }}{%- endmacro +%}"
)

THOUGHTS = ("<think>", "<thinking>", "<thought>", "<reasoning>")  # what opens a model's reasoning


class Renderer:
    """A tokenizer's chat template, as text. `name` is what errors call it.

    Replies are those of a model that does not think aloud first, so a template with such a switch has it off.
    A system message that the template refuses or leaves out is put before the first user message.
    Raises AloeError when there is no template, or when it ends a reply without a token of its own.
    """

    def __init__(self, tokenizer: TransformersTokenizer):
        self.name: str = tokenizer.name_or_path
        self._values = {**named_tokens(tokenizer), "enable_thinking": False}
        self._template = chat_template(tokenizer)
        if "strftime_now" in self._template:
            self._template = TODAY + self._template
        added = tokenizer.added_tokens_decoder
        special = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        question, answer = "Qz", "Zj"
        plain, asked, answered = (
            self._texts([[{"role": "user", "content": question}]], prompt=False)[0],
            self._texts([[{"role": "user", "content": question}]], prompt=True)[0],
            self._texts([_exchange(question, answer)], prompt=False)[0],
        )
        for what, said, text in (("user's message", question, asked), ("reply", answer, answered)):
            if said.lower() not in text.lower():
                raise AloeError(f"{self.name}: its chat template leaves out the {what}; give the model's own template")
        # A tokenizer may not say that the tokens around a message are special; we treat them all alike.
        special |= {token.content for token in added.values() if token.content in plain}
        control = sorted((text for text in special if text.strip()), key=len, reverse=True)
        self._starts = {text[:2] for text in control}
        self._pattern = re.compile("|".join(map(re.escape, control)) or "(?!)")
        end = self._pattern.search(answered, answered.rfind(answer))
        self._unclosed = end is None and self._closes_earlier(tokenizer.eos_token, question, answer)
        if end is None and not self._unclosed:
            raise AloeError(
                f"{self.name}: its chat template ends a reply without a special token, "
                "so a model could not learn to stop; add an end-of-turn token to the template"
            )
        self.end: str = end.group() if end else tokenizer.eos_token  # what ends a reply
        self._trail = answered[end.end() :] if end else ""  # what the template writes after the end of a last reply
        openers = self._pattern.findall(asked, asked.rfind(question))
        self.opener: str | None = openers[-1] if openers else None  # the last control token before a reply
        self._folds = self._folds_system()

    def prompts(self, paths: Sequence[Sequence[Message]]) -> list[str]:
        """Paths that end with a user message, with what stands before the reply. Raises AloeError when refused."""
        return self._texts(paths, prompt=True)

    def answered(self, paths: Sequence[Sequence[Message]]) -> list[str]:
        """Paths that end with a reply, its end of turn included even where the template leaves the last one open."""
        return [self.closed(text) for text in self._texts(paths, prompt=False)]

    def closed(self, text: str) -> str:
        """The text of a path that ends with a reply, with the end of turn that some templates leave out there."""
        return text + self.end if self._unclosed else text

    def texts(self, nodes: Sequence[Node], jobs: Sequence[Job]) -> list[str]:
        """The text of every job's path of messages, as the template writes it. Raises AloeError when it refuses."""
        return render(self.name, self._template, self._values, nodes, jobs)

    def system_folded(self, messages: Sequence[Message], always: bool = False) -> list[Message]:
        """The messages, with a system message put into the first user message where the template takes none.

        `always`: even where it takes one. Raises AloeError when no user message follows.
        """
        if not (self._folds or always) or not messages or messages[0]["role"] != "system":
            return list(messages)
        if len(messages) == 1 or messages[1]["role"] != "user":
            raise AloeError(f"{self.name}: the chat template takes no system message, and no user message follows it")
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return [first, *messages[2:]]

    def looks_like_control(self, text: str) -> bool:
        """Whether a control token's text stands in a message."""
        return any(start in text for start in self._starts) and self._pattern.search(text) is not None

    def mark(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages with a mark inside all text that looks like a control token, and the mark ("": none needed).

        Wherever the mark stands in the rendered text, it is to be cut (see `Encoder`); what is then left holds only
        the control tokens that the template wrote.
        """
        if not any(self.looks_like_control(message["content"]) for message in messages):
            return list(messages), ""
        free = (mark for mark in MARKS if not any(mark in message["content"] for message in messages))
        mark = next(free, None)
        if mark is None:
            raise AloeError(f"{self.name}: a message holds every Unicode noncharacter; clean the data")
        return [{"role": m["role"], "content": self._break(m["content"], mark)} for m in messages], mark

    def reply_end(self, text: str) -> int:
        """Where in the text of a path that ends with a reply its end of turn ends; what follows is only context."""
        if text.endswith(self.end + self._trail):
            return len(text) - len(self._trail)
        return text.rfind(self.end) + len(self.end)

    def why_no_prefix(self, prompt: str, reply: str) -> str:
        """What to say of a template whose prompt is not how the reply's text begins."""
        opened = next((tag for tag in THOUGHTS if prompt.rstrip().endswith(tag)), None)
        if opened is None or opened in reply[len(prompt.rstrip()) - len(opened) :][: len(opened)]:
            return "the chat template's reply prompt is not a prefix of the reply; use a prefix-stable template"
        return (
            f"the chat template ends the prompt for a reply with {opened} and writes none in a reply, so that a reply "
            f"does not stand behind its prompt; in a copy of the model's directory take {opened} out of the end of "
            "chat_template.jinja (below add_generation_prompt), and train that: it then answers without thinking aloud"
        )

    def _break(self, text: str, mark: str) -> str:
        """Put the mark after the first character of every control token in the text, overlapping ones too."""
        pieces, done, match = [], 0, self._pattern.search(text)
        while match:
            if len(match.group()) == 1:
                raise AloeError(f"{self.name}: a message holds the control token {match.group()!r}; clean the data")
            pieces.append(text[done : match.start() + 1])
            done = match.start() + 1
            match = self._pattern.search(text, done)
        return mark.join([*pieces, text[done:]])

    def _folds_system(self) -> bool:
        probe = [{"role": "system", "content": "Zj"}, {"role": "user", "content": "Qz"}]
        try:
            return "Zj" not in self.prompts([probe])[0]
        except AloeError:
            return True

    def _closes_earlier(self, eos: str | None, question: str, answer: str) -> bool:
        """Whether the template ends a reply with the end-of-text token once another message follows."""
        (text,) = self._texts([[*_exchange(question, answer), {"role": "user", "content": "Xv"}]], prompt=True)
        return eos is not None and eos in text[text.find(answer) : text.find("Xv")]

    def _texts(self, paths: Sequence[Sequence[Message]], prompt: bool) -> list[str]:
        nodes: list[Node] = []
        jobs: list[Job] = []
        for path in paths:
            before = -1
            for message in path:
                nodes.append((before, message["role"], message["content"]))
                before = len(nodes) - 1
            jobs.append((before, prompt))
        return self.texts(nodes, jobs)


def _exchange(user: str, reply: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
