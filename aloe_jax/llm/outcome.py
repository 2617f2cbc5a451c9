"""From a server's reason for ending a reply to what the project makes of it."""

from __future__ import annotations

import re

from aloe_jax.llm.complaint import plain
from aloe_jax.llm.protocol import Completion, Outcome

# Gemini's finish reasons for a reply that its filters held back.
_BLOCKED = frozenset(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "content_filter")
)
_CUT = frozenset(("MAX_TOKENS", "length"))
_DONE = frozenset(("STOP", "stop"))
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_MOST_TOKENS = 1e9  # of one call; a larger figure is none


def completion(text: str, reason: str, detail: str, input_tokens: int, output_tokens: int) -> Completion:
    """The completion for a reply that ended for `reason` (Gemini's or OpenAI's); `detail` is what more was said."""
    reason, detail = plain(reason, 100), plain(detail)
    outcome: Outcome = "ok"
    if reason in _BLOCKED:
        outcome = "blocked"
    elif reason in _CUT:  # thinking may have used up all tokens before a first word
        outcome = "truncated"
    elif not text.strip():
        outcome = "empty"
    said = "" if outcome == "ok" and reason in _DONE else ": ".join(part for part in (reason, detail) if part)
    # An emoji cut in two comes as an escape for half of it, which no file can hold.
    if not text.isascii() and _HALF_CHARACTER.search(text):
        text = _HALF_CHARACTER.sub("\ufffd", text)
        if outcome == "ok":
            outcome, said = "unreadable", "the reply breaks within a character"
    return Completion(text, input_tokens, output_tokens, outcome, said)


def blocked_prompt(reason: str, detail: str, input_tokens: int, output_tokens: int = 0) -> Completion:
    """The completion for a prompt that was held back before any reply was written."""
    reason, detail = plain(reason, 100), plain(detail)
    said = f"prompt blocked, {reason}" + (f": {detail}" if detail else "")
    return Completion("", input_tokens, output_tokens, "blocked", said)


def tokens(value: object) -> int:
    """A server's count of tokens; 0, which stands for unknown, where it is no count."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    # Neither NaN nor an infinity is within these bounds.
    return int(value) if 0 <= value < _MOST_TOKENS and value == int(value) else 0
