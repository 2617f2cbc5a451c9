"""Conversation → token trees through the tokenizer's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aloe_jax.conversation import Branch, Conversation, Message
from aloe_jax.data.encoding import Encoder, Place
from aloe_jax.data.rendering import Renderer
from aloe_jax.data.tokenizer import generation_stops
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError


class UnstableTemplateError(AloeError):
    """The text of a path does not begin with the text of the same path with one message less."""


@dataclass(frozen=True)
class Piece:
    """Ids of one turn: from the end of the reply that it answers (or from the start) to its replies' prompt, and on."""

    prompt: list[int]
    replies: dict[Branch, list[int]]  # each through its end of turn
    trails: dict[Branch, list[int]]  # what the template writes after a last reply


class ChatTemplate:
    """A tokenizer's chat template, as token ids. Raises AloeError when the tokenizer has none that ends replies.

    A path's ids are joined from pieces, cut where generation cuts them: before and after each reply. The pieces
    join to the ids of the whole text, except where a token would merge across the cut before a reply, as of two
    newlines: there the model generates two tokens, and so it is trained. Text in a message that looks like a
    control token stays text. `stop`: more ids that end a reply, such as those of the model's own settings.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._encode = Encoder(tokenizer, self._renderer.end)
        eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        more = generation_stops(tokenizer.name_or_path)
        self._stop = tuple(dict.fromkeys((self._encode.anchor_id, *eos, *more, *stop)))
        self._seen: dict[tuple[str, Place], list[int]] = {}

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids at which a reply ends: the template's end of turn first, then the tokenizer's and the model's."""
        return self._stop

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a path that ends with a user message, with the prompt for the reply."""
        messages, mark = self._renderer.mark(self._renderer.system_folded(messages))
        return self._encode(self._renderer.prompts([messages]), mark)[0]

    def continuation(self, messages: Sequence[Message]) -> list[int]:
        """Ids to append to a session whose last reply ended with its end of turn, up to the next reply's prompt.

        `messages` ends with the new user message; when no reply lies before it, this is the whole prompt.
        Raises UnstableTemplateError when the rendered path is not an extension of what the session was fed: then it
        has to start anew with `prompt`.
        """
        messages = self._renderer.system_folded(messages)
        if not any(message["role"] == "assistant" for message in messages):
            return self.prompt(messages)
        messages, mark = self._renderer.mark(messages)
        asked, after = self._renderer.prompts([messages[:-2], messages])
        (before,) = self._renderer.answered([messages[:-1]])
        end = self._renderer.reply_end(before)
        if not (before.startswith(asked) and after.startswith(before[:end])):
            raise UnstableTemplateError(f"{self._renderer.name}: the chat template rewrites earlier messages")
        return self._encode([after[end:]], mark, "token")[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without special tokens."""
        # Some tokenizers tidy up what they decode ("it 's" -> "it's"); the tokens do not say that.
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def lookalikes(self, conversation: Conversation) -> int:
        """How many messages of the conversation hold the text of a control token, which is taken as text."""
        texts = [text for turn in conversation.turns for text in (turn.user, *turn.replies.values())]
        return sum(self._renderer.looks_like_control(text) for text in texts)

    def trees(self, conversation: Conversation) -> list[TokenTree]:
        """One token tree; where the template is not prefix-stable over turns, one small tree a turn.

        Raises UnstableTemplateError when not even a turn's prompt is a prefix of its replies, or a reply has no end.
        """
        turns = range(len(conversation.turns))
        prompts, replies, mark = self._texts(conversation)
        ends = {key: self._renderer.reply_end(reply) for key, reply in replies.items()}
        for (number, branch), reply in replies.items():
            where = f"{self._renderer.name}: conversation {conversation.id}, turn {number + 1}"
            if not reply.startswith(prompts[number]):
                raise UnstableTemplateError(
                    f"{where}: the chat template's reply prompt is not a prefix of the reply; "
                    "use a prefix-stable template"
                )
            if ends[number, branch] <= len(prompts[number]):
                raise UnstableTemplateError(f"{where}: the chat template does not end the {branch} reply")
        answers = {place: turn for turn in turns if (place := conversation.place(turn))}
        starts = [0] * len(turns)
        stable = all(prompts[turn].startswith(replies[place][: ends[place]]) for place, turn in answers.items())
        if stable:
            for place, turn in answers.items():
                starts[turn] = ends[place]
        pieces = self._pieces(prompts, replies, starts, ends, mark)
        if stable:
            return [self._tree(conversation, pieces, 0, answers, conversation.id)]
        return [self._tree(conversation, pieces, turn, {}, f"{conversation.id}/{turn}") for turn in turns]

    def _texts(self, conversation: Conversation) -> tuple[list[str], dict[tuple[int, Branch], str], str]:
        """Every turn's path as text: up to its replies' prompt, and through each reply; and the mark in them."""
        numbers = range(len(conversation.turns))
        keys: list[tuple[int, Branch]] = [(n, branch) for n in numbers for branch in conversation.turns[n].replies]
        asked = [conversation.messages(number) for number in numbers]
        answered = [conversation.messages(*key) for key in keys]
        mark = ""
        if self.lookalikes(conversation):
            every, mark = self._renderer.mark([message for path in answered for message in path])
            marked = iter(every)
            answered = [[next(marked) for _ in path] for path in answered]
            longer = {number: path for (number, _), path in zip(keys, answered, strict=True)}
            asked = [longer[number][:-1] for number in numbers]
        prompts, replies = self._renderer.prompts(asked), self._renderer.answered(answered)
        return prompts, dict(zip(keys, replies, strict=True)), mark

    def _pieces(
        self,
        prompts: Sequence[str],
        replies: Mapping[tuple[int, Branch], str],
        starts: Sequence[int],
        ends: Mapping[tuple[int, Branch], int],
        mark: str,
    ) -> list[Piece]:
        """Encode each turn's prompt from `starts` on, and each reply behind it up to `ends`."""
        inside = [n for n, start in enumerate(starts) if start]
        outside = [n for n, start in enumerate(starts) if not start]
        ids = dict(zip(inside, self._encode([prompts[n][starts[n] :] for n in inside], mark, "token"), strict=True))
        ids |= zip(outside, self._encode([prompts[n] for n in outside], mark), strict=True)
        pieces = [Piece(ids[number], {}, {}) for number in range(len(prompts))]
        openings = [self._opening(prompts[n], starts[n], piece.prompt) for n, piece in enumerate(pieces)]
        bare = [reply[len(prompts[n]) : ends[n, branch]] for (n, branch), reply in replies.items()]
        behind = [openings[n][0] + text for (n, _), text in zip(replies, bare, strict=True)]
        for (number, branch), text, whole in zip(replies, bare, self._encode(behind, mark), strict=True):
            opening = openings[number][1]
            # Where a token would merge across the cut, the reply is encoded alone: generation does not see beyond it.
            merges = whole[: len(opening)] != opening
            pieces[number].replies[branch] = self._encode([text], mark, "text")[0] if merges else whole[len(opening) :]
            pieces[number].trails[branch] = self._known(replies[number, branch][ends[number, branch] :], "token")
        return pieces

    def _opening(self, prompt: str, start: int, ids: list[int]) -> tuple[str, list[int]]:
        """The end of a prompt from its last control token on, and its ids: enough to see what merges with a reply."""
        cut = prompt.rfind(self._renderer.opener, start) if self._renderer.opener else -1
        if cut >= 0:
            return prompt[cut:], self._known(prompt[cut:])
        if start:
            return self._renderer.end + prompt[start:], [self._encode.anchor_id, *ids]
        return prompt, ids

    def _known(self, text: str, place: Place = "start") -> list[int]:
        """Ids of text that the template writes again and again."""
        if (text, place) not in self._seen:
            self._seen[text, place] = self._encode([text], place=place)[0]
        return self._seen[text, place]

    def _tree(
        self,
        conversation: Conversation,
        pieces: Sequence[Piece],
        first: int,
        answers: Mapping[tuple[int, Branch], int],
        tree_id: str,
    ) -> TokenTree:
        """The tree from turn `first` on; `answers` says which turn answers which reply."""
        nodes: list[Node] = []
        pairs: list[Pair] = []

        def add(number: int, parent: int, before: Any) -> None:
            """Append a turn and all that follows it; `before` is the digest of its path up to `parent`."""
            turn, piece, depth = conversation.turns[number], pieces[number], conversation.depth(number)
            prompt = len(nodes)
            nodes.append(Node(parent, tuple(piece.prompt), turn=depth))
            asked = digested(before, piece.prompt)
            place: dict[Branch, int] = {}
            # The reply that the dialogue followed comes last, next to what follows it.
            for branch in sorted(turn.replies, key=lambda branch: branch == turn.continued):
                scored, answered = piece.replies[branch], (number, branch) in answers
                digest = digested(asked, scored)
                # The template writes the trail after a last reply; what follows an answered one begins with its own.
                tokens = (*scored, *(() if answered else piece.trails[branch]))
                place[branch] = len(nodes)
                name = f"{conversation.id}/{number}/{branch}#{digest.hexdigest()}"
                nodes.append(Node(prompt, tokens, len(scored), depth, name, number, branch))
                if answered:
                    add(answers[number, branch], place[branch], digest)
            if len(place) == 2:
                pairs.append(Pair(depth, place["preferred"], place["rejected"]))

        add(first, -1, hashlib.blake2s(digest_size=6))
        return TokenTree(tree_id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn)))


def digested(before: Any, ids: Sequence[int]) -> Any:
    """The digest of a path's ids, from the digest of its beginning: stale log-probs cannot match a reply's name."""
    digest = before.copy()
    digest.update(np.array(ids, np.int32).tobytes())
    return digest
