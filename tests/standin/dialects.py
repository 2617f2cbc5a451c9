"""How a question is read from, and an answer put into, the words of each protocol."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.standin.answers import Answer

# Numbers of the enumerations, which google-generativeai asks for with `$alt=json;enum-encoding=int`.
FINISH = {"STOP": 1, "MAX_TOKENS": 2, "SAFETY": 3, "RECITATION": 4, "OTHER": 5}
BLOCK = {"SAFETY": 1, "OTHER": 2, "BLOCKLIST": 3, "PROHIBITED_CONTENT": 4}


@dataclass(frozen=True)
class Question:
    """What a body asks, whatever its protocol."""

    system: str
    prompt: str
    thinking: bool = False

    @property
    def tokens(self) -> int:
        """About four characters a token."""
        return count_tokens(self.system) + count_tokens(self.prompt)

    @property
    def id(self) -> str:
        """A name for the content, where no request id comes with it."""
        return hashlib.sha256(f"{self.system}\0{self.prompt}".encode()).hexdigest()


def count_tokens(text: str) -> int:
    """About four characters a token."""
    return math.ceil(len(text) / 4)


# ---------------------------------------------------------------- Gemini


def read_gemini(body: Mapping[str, Any]) -> Question:
    """From a generateContent body."""
    config = body.get("generationConfig") or {}
    thinking = config.get("thinkingConfig") or {}
    budget = thinking.get("thinkingBudget") or thinking.get("thinking_budget") or 0  # servers take either
    prompt = "\n".join(_parts(content) for content in body.get("contents") or [])
    return Question(_parts(body.get("systemInstruction") or {}), prompt, budget > 0)


def _parts(content: Mapping[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content.get("parts") or [])


def write_gemini(question: Question, answer: Answer, numbers: bool = False) -> dict[str, Any]:
    """A GenerateContentResponse; with `numbers`, enumerations are numbers."""
    out, thoughts = count_tokens(answer.text), answer.thoughts or (16 if question.thinking else 0)
    usage = {
        "promptTokenCount": question.tokens,
        "candidatesTokenCount": out,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": question.tokens + out + thoughts,
    }
    common = {"usageMetadata": {key: value for key, value in usage.items() if value}, "modelVersion": "stand-in"}
    if answer.finish == "prompt":
        del common["usageMetadata"]["candidatesTokenCount" if out else "totalTokenCount"]
        common["usageMetadata"]["totalTokenCount"] = question.tokens
        reason: str | int = BLOCK["SAFETY"] if numbers else "SAFETY"
        return {"promptFeedback": {"blockReason": reason, "safetyRatings": []}, **common}
    name = {"stop": "STOP", "length": "MAX_TOKENS"}.get(answer.finish, answer.finish.upper())
    candidate: dict[str, Any] = {"index": 0, "finishReason": FINISH[name] if numbers else name}
    if answer.text:
        candidate["content"] = {"role": "model", "parts": [{"text": answer.text}]}
    elif answer.finish == "stop":
        candidate["content"] = {"role": "model"}
    return {"candidates": [candidate], **common}


def gemini_error(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """An error body of Google's APIs."""
    return {"error": {"code": code, "message": message, "status": status, "details": details or []}}


# ---------------------------------------------------------------- OpenAI


def read_openai(body: Mapping[str, Any]) -> Question:
    """From a chat/completions body."""
    texts: dict[str, list[str]] = {"system": [], "user": []}
    for message in body.get("messages") or []:
        texts.setdefault(message["role"], []).append(message["content"])
    return Question("\n".join(texts["system"]), "\n".join(texts["user"]))


def write_openai(question: Question, answer: Answer, model: str) -> dict[str, Any]:
    """A chat completion; thinking counts within `completion_tokens`."""
    finish = {"stop": "stop", "other": "stop", "length": "length"}.get(answer.finish, "content_filter")
    out = count_tokens(answer.text) + answer.thoughts
    message = {"role": "assistant", "content": answer.text or None}
    if answer.finish == "recitation":
        # Structured outputs refuse in a field of their own.
        finish, message["refusal"] = "stop", "I cannot help with that."
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": question.tokens,
            "completion_tokens": out,
            "total_tokens": question.tokens + out,
        },
    }


def openai_error(code: int, kind: str, message: str) -> dict[str, Any]:
    """An error body of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": None, "code": kind if code < 500 else None}}
