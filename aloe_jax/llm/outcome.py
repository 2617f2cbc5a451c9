"""From a server's reason for ending a reply to what the project makes of it."""

from __future__ import annotations

from aloe_jax.llm.protocol import Completion, Outcome

# Gemini's finish reasons for a reply that its filters held back.
_BLOCKED = frozenset(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "content_filter")
)
_CUT = frozenset(("MAX_TOKENS", "length"))
_DONE = frozenset(("STOP", "stop"))


def completion(text: str, reason: str, detail: str, input_tokens: int, output_tokens: int) -> Completion:
    """The completion for a reply that ended for `reason` (Gemini's or OpenAI's); `detail` is what more was said."""
    outcome: Outcome = "ok"
    if reason in _BLOCKED:
        outcome = "blocked"
    elif reason in _CUT:  # thinking may have used up all tokens before a first word
        outcome = "truncated"
    elif not text.strip():
        outcome = "empty"
    said = "" if outcome == "ok" and reason in _DONE else ": ".join(part for part in (reason, detail) if part)
    return Completion(text, input_tokens, output_tokens, outcome, said)


def blocked_prompt(reason: str, detail: str, input_tokens: int, output_tokens: int = 0) -> Completion:
    """The completion for a prompt that was held back before any reply was written."""
    said = f"prompt blocked, {reason}" + (f": {detail}" if detail else "")
    return Completion("", input_tokens, output_tokens, "blocked", said)
