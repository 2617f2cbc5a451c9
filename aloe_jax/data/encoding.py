"""Rendered text → ids, piece by piece, as if the rest of the chat came before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aloe_jax.conversation import shown
from aloe_jax.data.tokenizer_files import TransformersTokenizer
from aloe_jax.errors import AloeError

FENCE = "\x01"  # a control character: vocabularies merge it with nothing
# Where a piece begins: a chat, or right behind a control token, or in the middle of text.
Beginning = Literal["start", "token", "text"]


class Encoder:
    """Encodes pieces of a chat. `anchor` is the text of a control token, which splits any text at itself.

    A tokenizer may treat the beginning of a text specially (SentencePiece puts a space before it, some versions
    behind every control token, too), so a piece from the middle of a chat is encoded behind the anchor, or behind
    the anchor and a character that merges with nothing, whose ids are then dropped.
    """

    def __init__(self, tokenizer: TransformersTokenizer, anchor: str):
        self._tokenizer = tokenizer
        token, fence, word, fenced = self._batch([anchor, anchor + FENCE, anchor + "a", anchor + FENCE + "a"])
        if len(token) != 1:
            raise AloeError(
                f"{tokenizer.name_or_path}: encodes its control token {anchor!r} as {len(token)} tokens; "
                "give the tokenizer.json that belongs to its chat template"
            )
        self.anchor_id: int = token[0]
        adds_space = fenced[: len(fence)] == fence and fenced[len(fence) :] != word[1:]
        self._before: dict[Beginning, tuple[str, list[int]]] = {
            "start": ("", []),
            "token": (anchor, token),
            "text": (anchor + FENCE, fence) if adds_space else (anchor, token),
        }

    def __call__(self, texts: Sequence[str], mark: str = "", beginning: Beginning = "start") -> list[list[int]]:
        """Ids of every text, which begins at `beginning`. At every `mark`, which is dropped, no token may span the cut.

        Special tokens that stand in the text are not added again.
        """
        pieces: list[tuple[int, Beginning, str]] = []
        for owner, text in enumerate(texts):
            first, *more = text.split(mark) if mark else [text]
            pieces += [(owner, beginning, first), *((owner, "text", piece) for piece in more)]
        ids: list[list[int]] = [[] for _ in texts]
        behind = self._batch([self._before[where][0] + piece for _, where, piece in pieces])
        for (owner, where, piece), found in zip(pieces, behind, strict=True):
            before = self._before[where][1]
            if found[: len(before)] == before:
                ids[owner] += found[len(before) :]
            else:  # the fence merged with the piece after all
                ids[owner] += self([piece], beginning="token")[0]
        return ids

    def _batch(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # The template writes the special tokens itself; adding them again would double the first one.
        try:
            ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=False)[
                "input_ids"
            ]
        except BaseException as error:  # of the tokenizers library, whose panics are no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise AloeError(
                f"{self._tokenizer.name_or_path}: the tokenizer cannot encode text ({shown(error, 200)}); "
                "give the tokenizer.json that belongs to its chat template"
            ) from None
        return ids
