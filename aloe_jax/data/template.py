"""Conversation → token trees through the tokenizer's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aloe_jax.conversation import Branch, Conversation, Message
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError

Path = dict[str, list[int]]  # ids of a turn's path: "prompt", "preferred", "rejected"


class UnstableTemplateError(AloeError):
    """The ids of a path are not a prefix of the ids of the same path with one message more."""


class ChatTemplate:
    """A tokenizer's chat template, as token ids. Raises AloeError when the tokenizer has none."""

    def __init__(self, tokenizer: Any):
        if not tokenizer.chat_template:
            raise AloeError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja")
        self.tokenizer = tokenizer
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before, whole = self._encode([self._render(probe[:1]), self._render(probe)])
        specials = set(tokenizer.all_special_ids)
        ends = [i for i in whole[len(before) :] if i in specials]
        if not ends:
            raise AloeError(
                f"{tokenizer.name_or_path}: its chat template ends a reply without a special token, "
                "so a model could not learn to stop; add an end-of-turn token to the template"
            )
        self._end = ends[0]

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids at which a reply ends: the template's end of turn first, then the tokenizer's end of text."""
        eos = self.tokenizer.eos_token_id
        return (self._end,) if eos is None or eos == self._end else (self._end, eos)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a path that ends with a user message, with the prompt for the reply."""
        return self._encode([self._render(messages)])[0]

    def continuation(self, messages: Sequence[Message]) -> list[int]:
        """Ids to append to a session whose last reply ended with its end of turn, up to the next reply's prompt.

        `messages` ends with the new user message; when it is the only one, this is the whole prompt.
        Raises UnstableTemplateError when the rendered path is not an extension of the earlier one.
        """
        if len(messages) == 1:
            return self.prompt(messages)
        before, after = self._render(messages[:-1]), self._render(messages)
        end = self.tokenizer.convert_ids_to_tokens(self._end)
        cut = before.rfind(end) + len(end)
        if not after.startswith(before[:cut]):
            raise UnstableTemplateError(f"{self.tokenizer.name_or_path}: the chat template rewrites earlier messages")
        return self._encode([after[cut:]])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def trees(self, conversation: Conversation) -> list[TokenTree]:
        """One token tree; where the template is not prefix-stable over turns, one small tree a turn.

        Raises UnstableTemplateError when not even a turn's prompt is a prefix of its replies.
        """
        paths = self._paths(conversation)
        places = [conversation.place(turn) for turn in range(len(paths))]
        joints = [
            (paths[place[0]][place[1]], path["prompt"]) for place, path in zip(places, paths, strict=True) if place
        ]
        if all(extends(reply, prompt) for reply, prompt in joints):
            answers = {place: turn for turn, place in enumerate(places) if place}
            return [self._tree(conversation, paths, 0, answers, conversation.id)]
        return [self._tree(conversation, paths, turn, {}, f"{conversation.id}/{turn}") for turn in range(len(paths))]

    def _paths(self, conversation: Conversation) -> list[Path]:
        """Ids of every turn's path: up to its reply's prompt, and through each of its replies."""
        keys: list[tuple[int, Branch | None]] = []
        for number, turn in enumerate(conversation.turns):
            keys += [(number, None), *((number, branch) for branch in turn.replies)]
        ids = self._encode([self._render(conversation.messages(*key)) for key in keys])
        paths: list[Path] = [{} for _ in conversation.turns]
        for (number, branch), path in zip(keys, ids, strict=True):
            paths[number][branch or "prompt"] = path
        return paths

    def _tree(
        self,
        conversation: Conversation,
        paths: list[Path],
        first: int,
        answers: Mapping[tuple[int, Branch], int],
        tree_id: str,
    ) -> TokenTree:
        """The tree from turn `first` on; `answers` says which turn answers which reply."""
        nodes: list[Node] = []
        pairs: list[Pair] = []

        def add(number: int, parent: int, done: int) -> None:
            """Append a turn and all that follows it; `parent` holds the ids of its path up to `done`."""
            turn, path, depth = conversation.turns[number], paths[number], conversation.depth(number)
            prompt = len(nodes)
            nodes.append(Node(parent, tuple(path["prompt"][done:]), turn=depth))
            place: dict[Branch, int] = {}
            # The reply that the dialogue followed comes last, next to what follows it.
            for branch in sorted(turn.replies, key=lambda branch: branch == turn.continued):
                if not extends(path["prompt"], path[branch]):
                    raise UnstableTemplateError(
                        f"{self.tokenizer.name_or_path}: conversation {conversation.id}, turn {number + 1}: the chat "
                        "template's reply prompt is not a prefix of the reply; use a prefix-stable template"
                    )
                tokens = path[branch][len(path["prompt"]) :]
                place[branch] = len(nodes)
                name = reply_id(conversation, number, branch, path[branch])
                nodes.append(Node(prompt, tuple(tokens), self._scored(tokens), depth, name, number, branch))
                if (number, branch) in answers:
                    add(answers[number, branch], place[branch], len(path[branch]))
            if len(place) == 2:
                pairs.append(Pair(depth, place["preferred"], place["rejected"]))

        add(first, -1, 0)
        return TokenTree(tree_id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn)))

    def _scored(self, tokens: Sequence[int]) -> int:
        """How many tokens the reply has, its end of turn included."""
        stops = set(self.stop)
        return next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))

    def _render(self, messages: Sequence[Message]) -> str:
        prompt = messages[-1]["role"] == "user"
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # The template writes the special tokens itself; adding them again would double the first one.
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]


def reply_id(conversation: Conversation, turn: int, branch: Branch, path: Sequence[int]) -> str:
    """ "<conversation>/<turn>/<branch>#<digest of the ids of the whole path>": stale log-probs cannot match."""
    digest = hashlib.blake2s(np.array(path, np.int32).tobytes(), digest_size=6).hexdigest()
    return f"{conversation.id}/{turn}/{branch}#{digest}"


def extends(prefix: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether `ids` starts with `prefix`."""
    return list(ids[: len(prefix)]) == list(prefix)
