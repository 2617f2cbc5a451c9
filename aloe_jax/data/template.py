"""Conversation or other messages → token trees through the tokenizer's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aloe_jax.conversation import Conversation, Message
from aloe_jax.data.encoding import Encoder
from aloe_jax.data.encoding import Place as Beginning
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.rendering import Renderer
from aloe_jax.data.tokenizer import generation_stops
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError


class UnstableTemplateError(AloeError):
    """The text of a path does not begin with the text of the same path with one message less."""


Place = tuple[int, int]  # (exchange, reply) of a message tree


@dataclass(frozen=True)
class Piece:
    """Ids of one exchange: from the end of what it answers (or from the start) to its replies' prompt, and on."""

    prompt: list[int]
    replies: list[list[int]]  # each through its end of turn
    trails: list[list[int]]  # what the template writes after a last reply


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
        self._seen: dict[tuple[str, Beginning], list[int]] = {}

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

    def lookalikes(self, talk: Conversation | MessageTree) -> int:
        """How many messages hold the text of a control token, which is taken as text."""
        return sum(self._renderer.looks_like_control(text) for text in MessageTree.of(talk).texts())

    def trees(self, talk: Conversation | MessageTree) -> list[TokenTree]:
        """One token tree; where the template is not prefix-stable over turns, one small tree a turn.

        Raises UnstableTemplateError when not even a turn's prompt is a prefix of its replies, or a reply has no end.
        """
        talk = MessageTree.of(talk)
        numbers = range(len(talk.exchanges))
        prompts, replies, mark = self._texts(talk)
        ends = {place: self._renderer.reply_end(reply) for place, reply in replies.items()}
        for (number, which), reply in replies.items():
            where = f"{self._renderer.name}: {talk.where}, turn {number + 1}"
            if not reply.startswith(prompts[number]):
                raise UnstableTemplateError(
                    f"{where}: the chat template's reply prompt is not a prefix of the reply; "
                    "use a prefix-stable template"
                )
            if ends[number, which] <= len(prompts[number]):
                branch = talk.exchanges[number].replies[which].branch or "earlier"
                raise UnstableTemplateError(f"{where}: the chat template does not end the {branch} reply")
        answers: dict[Place, list[int]] = {}
        for number in numbers:
            if (place := talk.exchanges[number].follows) is not None:
                answers.setdefault(place, []).append(number)
        starts = [0] * len(numbers)
        answering = [(place, number) for place, after in answers.items() for number in after]
        stable = all(prompts[number].startswith(replies[place][: ends[place]]) for place, number in answering)
        if stable:
            for place, number in answering:
                starts[number] = ends[place]
        pieces = self._pieces(prompts, replies, starts, ends, mark)
        if stable:
            return [self._tree(talk, pieces, 0, answers, talk.id)]
        judged = (n for n in numbers if any(reply.branch is not None for reply in talk.exchanges[n].replies))
        return [self._tree(talk, pieces, number, {}, f"{talk.id}/{number}") for number in judged]

    def _texts(self, talk: MessageTree) -> tuple[list[str], dict[Place, str], str]:
        """Every exchange's path as text: up to its replies' prompt, and through each reply; and the mark in them."""
        places = [(n, which) for n, exchange in enumerate(talk.exchanges) for which in range(len(exchange.replies))]
        answered = [self._renderer.system_folded(talk.messages(*place)) for place in places]
        mark = ""
        if self.lookalikes(talk):
            every, mark = self._renderer.mark([message for path in answered for message in path])
            marked = iter(every)
            answered = [[next(marked) for _ in path] for path in answered]
        paths = dict(zip(places, answered, strict=True))
        prompts = self._renderer.prompts([paths[number, 0][:-1] for number in range(len(talk.exchanges))])
        return prompts, dict(zip(places, self._renderer.answered(answered), strict=True)), mark

    def _pieces(
        self,
        prompts: Sequence[str],
        replies: Mapping[Place, str],
        starts: Sequence[int],
        ends: Mapping[Place, int],
        mark: str,
    ) -> list[Piece]:
        """Encode each exchange's prompt from `starts` on, and each reply behind it up to `ends`."""
        inside = [n for n, start in enumerate(starts) if start]
        outside = [n for n, start in enumerate(starts) if not start]
        ids = dict(zip(inside, self._encode([prompts[n][starts[n] :] for n in inside], mark, "token"), strict=True))
        ids |= zip(outside, self._encode([prompts[n] for n in outside], mark), strict=True)
        pieces = [Piece(ids[number], [], []) for number in range(len(prompts))]
        openings = [self._opening(prompts[n], starts[n], piece.prompt) for n, piece in enumerate(pieces)]
        bare = [reply[len(prompts[place[0]]) : ends[place]] for place, reply in replies.items()]
        behind = [openings[n][0] + text for (n, _), text in zip(replies, bare, strict=True)]
        for place, text, whole in zip(replies, bare, self._encode(behind, mark), strict=True):
            piece, opening = pieces[place[0]], openings[place[0]][1]
            # Where a token would merge across the cut, the reply is encoded alone: generation does not see beyond it.
            merges = whole[: len(opening)] != opening
            piece.replies.append(self._encode([text], mark, "text")[0] if merges else whole[len(opening) :])
            piece.trails.append(self._known(replies[place][ends[place] :], "token"))
        return pieces

    def _opening(self, prompt: str, start: int, ids: list[int]) -> tuple[str, list[int]]:
        """The end of a prompt from its last control token on, and its ids: enough to see what merges with a reply."""
        cut = prompt.rfind(self._renderer.opener, start) if self._renderer.opener else -1
        if cut >= 0:
            return prompt[cut:], self._known(prompt[cut:])
        if start:
            return self._renderer.end + prompt[start:], [self._encode.anchor_id, *ids]
        return prompt, ids

    def _known(self, text: str, place: Beginning = "start") -> list[int]:
        """Ids of text that the template writes again and again."""
        if (text, place) not in self._seen:
            self._seen[text, place] = self._encode([text], place=place)[0]
        return self._seen[text, place]

    def _tree(
        self,
        talk: MessageTree,
        pieces: Sequence[Piece],
        first: int,
        answers: Mapping[Place, Sequence[int]],
        tree_id: str,
    ) -> TokenTree:
        """The tree from exchange `first` on; `answers` says which exchanges answer which reply."""
        nodes: list[Node] = []
        found: dict[Place, int] = {}  # the node of a reply
        waiting: list[Callable[[], None]] = []  # what is still to lay out, the next one last

        def ask(number: int, parent: int, before: Any) -> None:
            """Append an exchange's prompt; `before` is the digest of its path up to `parent`."""
            depth = nodes[parent].turn + 1 if nodes else talk.depth(number)
            nodes.append(Node(parent, pieces[number].prompt, turn=depth))
            asked, prompt = digested(before, pieces[number].prompt), len(nodes) - 1
            for which in reversed(range(len(pieces[number].replies))):
                waiting.append(partial(answer, (number, which), prompt, asked))

        def answer(place: Place, prompt: int, asked: Any) -> None:
            """Append a reply; what answers it comes next."""
            number, which = place
            reply, scored = talk.exchanges[number].replies[which], pieces[number].replies[which]
            digest, after = digested(asked, scored), answers.get(place, ())
            # The template writes the trail after a last reply; what follows an answered one begins with its own.
            tokens = scored if after else [*scored, *pieces[number].trails[which]]
            found[place] = len(nodes)
            depth = nodes[prompt].turn
            if reply.branch is None:
                nodes.append(Node(prompt, tokens, 0, depth, source=number))
            else:
                name = f"{reply.name}#{digest.hexdigest()}"
                nodes.append(Node(prompt, tokens, len(scored), depth, name, number, reply.branch))
            for later in reversed(after):
                waiting.append(partial(ask, later, found[place], digest))

        ask(first, -1, hashlib.blake2s(digest_size=6))
        while waiting:
            waiting.pop()()
        pairs = [
            Pair(
                nodes[found[number, 0]].turn,
                found[number, choice.preferred],
                found[number, choice.rejected],
                choice.where,
            )
            for number in dict.fromkeys(number for number, _ in found)
            for choice in talk.exchanges[number].choices
        ]
        return TokenTree(tree_id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn)))


def digested(before: Any, ids: Sequence[int]) -> Any:
    """The digest of a path's ids, from the digest of its beginning: stale log-probs cannot match a reply's name."""
    digest = before.copy()
    digest.update(np.array(ids, np.int32).tobytes())
    return digest
