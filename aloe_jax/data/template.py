"""Conversation or other messages → token trees through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aloe_jax.conversation import Message
from aloe_jax.data.encoding import Beginning, Encoder
from aloe_jax.data.laying import EncodedExchange, LaidOut, lay_out
from aloe_jax.data.messages import MessageTree, ReplyIndex
from aloe_jax.data.paths import Paths, Written
from aloe_jax.data.rendering import Renderer
from aloe_jax.data.tokenizer import generation_stops
from aloe_jax.data.tokenizer_files import TransformersTokenizer
from aloe_jax.errors import AloeError


class UnstableTemplateError(AloeError):
    """The text of a path does not begin with the text of the same path with one message less."""


class _RewrittenError(Exception):
    """The template rewrites what was said before."""


SAMPLE = 100_000  # characters by which the number of tokens of a long text is estimated
FIRST_LEVELS = 8  # turns that are rendered before it is looked whether more of them can be in a row


class ChatTemplate:
    """A tokenizer's chat template, as token ids. Raises AloeError when the tokenizer has none that ends replies.

    A path's ids are joined from pieces, cut where generation cuts them: before and after each reply. The pieces
    join to the ids of the whole text, except where a token would merge across the cut before a reply, as of two
    newlines: there the model generates two tokens, and so it is trained. Text in a message that looks like a
    control token stays text. `stop`: more ids that end a reply, such as those of the model's own settings.
    """

    def __init__(self, tokenizer: TransformersTokenizer, stop: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._encode = Encoder(tokenizer, self._renderer.end)
        eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        more = generation_stops(tokenizer.name_or_path)
        # Ids at which a reply ends: the template's end of turn first, then the tokenizer's and the model's.
        self.stop: tuple[int, ...] = tuple(dict.fromkeys((self._encode.anchor_id, *eos, *more, *stop)))
        self._seen: dict[tuple[str, Beginning], list[int]] = {}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a path that ends with a user message, with the prompt for the reply."""
        messages, mark = self._renderer.mark(self._renderer.system_folded(messages))
        return self._encode(self._renderer.prompts([messages]), mark)[0]

    def continuation(self, messages: Sequence[Message]) -> list[int]:
        """Ids to append to a session whose last reply ended with its end of turn, up to the next reply's prompt.

        `messages` ends with the new user message; when no reply comes before it, this is the whole prompt.
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
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()

    def lookalikes(self, tree: MessageTree) -> int:
        """How many messages contain the text of a control token, which is taken as text."""
        return sum(self._renderer.looks_like_control(text) for text in tree.texts())

    def laid_out(self, tree: MessageTree, longest: int | None = None, system_in_user: bool = False) -> LaidOut:
        """One token tree; where the template is not prefix-stable over turns, one small tree per turn.

        What leads to an exchange is rendered and encoded only up to `longest` tokens: an exchange that answers a reply
        whose path is longer is left out, since no row of `longest` tokens has room for it. The trees are otherwise the
        same. Every path is rendered whole, so the time grows with the square of the turns that are laid out, not of
        all turns. `system_in_user`: the system message is part of the first user message. Raises UnstableTemplateError
        when not even a turn's prompt is a prefix of its replies, or a reply has no end.
        """
        paths = Paths(self._renderer, tree, system_in_user)
        try:
            return self._as_one(paths, longest)
        except _RewrittenError:
            return self._turn_by_turn(paths, longest)

    def _as_one(self, paths: Paths, longest: int | None) -> LaidOut:
        """One tree. Raises _RewrittenError where a path does not begin with the path before it."""
        follows = [exchange.follows for exchange in paths.tree.exchanges]
        pieces: dict[int, EncodedExchange] = {}
        lengths: dict[ReplyIndex, int] = {}  # tokens of the path through a reply
        closed: dict[ReplyIndex, str] = {}  # its text, where it is answered by what is not rendered yet
        following, levels = [0], FIRST_LEVELS
        while following:
            window = paths.below(following, levels)
            written = self._written(paths, window, longest)
            starts = dict.fromkeys(window, 0)
            for number, text in written.items():
                self._check(paths.tree, number, text)
                for which, reply in enumerate(text.replies):
                    if (number, which) in paths.answers:
                        closed[number, which] = reply[: self._renderer.reply_end(reply)]
                if (parent := follows[number]) is not None:
                    if not text.prompt.startswith(closed[parent]):
                        raise _RewrittenError
                    starts[number] = len(closed[parent])
            made = self._pieces(paths, written, starts, longest)
            following = []
            for number in window:
                if (parent := follows[number]) is not None and _over(lengths.get(parent), longest):
                    continue
                piece = pieces[number] = made[number]
                before = len(piece.prompt) + (0 if parent is None else lengths[parent])
                for which, ids in enumerate(piece.replies):
                    lengths[number, which] = before + len(ids)
                    if not _over(lengths[number, which], longest):
                        following += [n for n in paths.answers.get((number, which), ()) if n not in starts]
            kept = {follows[number] for number in following}
            kept |= {parent for parent, length in lengths.items() if _over(length, longest)}
            closed = {parent: text for parent, text in closed.items() if parent in kept}
            levels = max(FIRST_LEVELS, len(pieces) // 8)
        return lay_out(paths, pieces, self._rate(paths, pieces, closed))

    def _turn_by_turn(self, paths: Paths, longest: int | None) -> LaidOut:
        """A tree for every exchange."""
        pieces: dict[int, EncodedExchange] = {}
        following = [0]
        while following:
            window = paths.below(following, FIRST_LEVELS)
            written = self._written(paths, window, longest)
            for number, text in written.items():
                self._check(paths.tree, number, text)
            made = self._pieces(paths, written, dict.fromkeys(window, 0), longest)
            opening = paths.prompt_texts(0)[-1].strip()
            following = []
            for number in window:
                parent = paths.tree.exchanges[number].follows
                if parent is not None and (
                    parent[0] not in pieces or parent[0] in paths.unread_prompts or parent in paths.unread_replies
                ):
                    continue  # behind a message of which only the beginning was rendered
                pieces[number] = made[number]
                # A template that forgets how the chat began may write shorter paths later on.
                if not _over(len(pieces[number].prompt), longest) or opening not in written[number].prompt:
                    answers = (paths.answers.get((number, n), ()) for n in range(len(pieces[number].replies)))
                    following += [later for after in answers for later in after if later not in made]
        return lay_out(paths, pieces, self._rate(paths, pieces, {}), parted=True)

    def _written(self, paths: Paths, numbers: Sequence[int], longest: int | None) -> dict[int, Written]:
        """Render exchanges; of a message that alone is too long only its beginning."""
        if longest is not None:
            for number in numbers:
                paths.shorten(number, lambda text: self._is_longer(text, longest))
        return paths.write(numbers)

    def _is_longer(self, text: str, longest: int) -> bool:
        """Whether a text has more than `longest` tokens, as its beginning shows; False where that does not."""
        size = 32 * longest + 4096
        while size < len(text):
            if len(self._encode([text[:size]])[0]) > 2 * longest + 64:
                return True
            size *= 4
        return False

    def _check(self, tree: MessageTree, number: int, text: Written) -> None:
        where = f"{self._renderer.name}: {tree.where}, turn {number + 1}"
        for which, reply in enumerate(text.replies):
            if not reply.startswith(text.prompt):
                raise UnstableTemplateError(f"{where}: {self._renderer.why_no_prefix(text.prompt, reply)}")
            if self._renderer.reply_end(reply) <= len(text.prompt):
                branch = tree.exchanges[number].replies[which].branch or "earlier"
                raise UnstableTemplateError(f"{where}: the chat template does not end the {branch} reply")

    def _rate(self, paths: Paths, pieces: dict[int, EncodedExchange], closed: dict[ReplyIndex, str]) -> float:
        """Tokens per character of the messages that are left out or unread, about.

        It is that of a sample: the text between what is laid out and the deepest exchange that is left out, or the
        longest text that was not read to its end. Raises _RewrittenError where the path to that exchange does not begin
        with what is laid out of it.
        """
        left_out = [number for number in range(len(paths.depth)) if number not in pieces]
        if left_out:
            deepest = max(left_out, key=lambda number: paths.depth[number])
            sample = paths.write([deepest])[deepest].prompt
            parent, characters = paths.between(deepest, pieces)
            if parent in closed:
                if not sample.startswith(closed[parent]):
                    raise _RewrittenError
                sample = sample[len(closed[parent]) :]
        elif paths.unread:
            sample = max(paths.unread_texts(), key=len)
            characters = len(sample)
        else:
            return 0.0
        return len(self._encode([sample[:SAMPLE]], paths.mark)[0]) * max(1.0, len(sample) / SAMPLE) / characters

    def _pieces(
        self, paths: Paths, written: dict[int, Written], starts: dict[int, int], longest: int | None
    ) -> dict[int, EncodedExchange]:
        """Encode each exchange's prompt from `starts` on, and each reply behind it up to its end of turn.

        For what was not read to its end there are zeros, more than any row has room for.
        """
        mark = paths.mark
        inside = [n for n in written if starts[n]]
        outside = [n for n in written if not starts[n]]
        asked = [written[n].prompt[starts[n] :] for n in inside]
        ids = dict(zip(inside, self._encode(asked, mark, "token"), strict=True))
        ids |= zip(outside, self._encode([written[n].prompt for n in outside], mark), strict=True)
        openings = {n: self._opening(text.prompt, starts[n], ids[n]) for n, text in written.items()}
        replies = [(n, reply) for n, text in written.items() for reply in text.replies]
        ends = [self._renderer.reply_end(reply) for _, reply in replies]
        bare = [reply[len(written[n].prompt) : end] for (n, reply), end in zip(replies, ends, strict=True)]
        behind = [openings[n][0] + text for (n, _), text in zip(replies, bare, strict=True)]
        pieces = {number: EncodedExchange(ids[number], [], []) for number in written}
        encoded = self._encode(behind, mark)
        for (number, reply), end, text, whole in zip(replies, ends, bare, encoded, strict=True):
            piece, opening = pieces[number], openings[number][1]
            # Where a token would merge across the cut, the reply is encoded alone: generation does not see beyond it.
            merges = whole[: len(opening)] != opening
            piece.replies.append(self._encode([text], mark, "text")[0] if merges else whole[len(opening) :])
            piece.trails.append(self._known(reply[end:], "token"))
        if longest is not None:
            for number in paths.unread_prompts & written.keys():
                pieces[number] = replace(pieces[number], prompt=[0] * (longest + 1))
            for number, which in paths.unread_replies:
                if number in written:
                    pieces[number].replies[which] = [0] * (longest + 1)
        return pieces

    def _opening(self, prompt: str, start: int, ids: Sequence[int]) -> tuple[str, list[int]]:
        """The end of a prompt from its last control token on, and its ids: enough to see what merges with a reply."""
        cut = prompt.rfind(self._renderer.opener, start) if self._renderer.opener else -1
        if cut >= 0:
            return prompt[cut:], self._known(prompt[cut:])
        if start:
            return self._renderer.end + prompt[start:], [self._encode.anchor_id, *ids]
        return prompt, list(ids)

    def _known(self, text: str, where: Beginning = "start") -> list[int]:
        """Ids of text that the template writes again and again."""
        if (text, where) not in self._seen:
            self._seen[text, where] = self._encode([text], beginning=where)[0]
        return self._seen[text, where]


def _over(length: int | None, longest: int | None) -> bool:
    return longest is not None and (length is None or length > longest)
