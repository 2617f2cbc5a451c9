"""JSONL files for tests."""

import json
from pathlib import Path


def write_jsonl(path: Path, records) -> Path:
    """One record a line; text is a line as it is."""
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def chat(name: str, turns: int, system: str | None = None) -> dict:
    """A chat record whose texts name their turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for k in range(turns):
        messages.append({"role": "user", "content": f"{name} asks {k}"})
        messages.append({"role": "assistant", "content": f"answer {k} to {name}" + " more" * (k % 3)})
    return {"messages": messages}


def preference(prompt: list[str], preferred: str, rejected: str, system: str | None = None) -> dict:
    """A conversational preference record; `prompt` is user and assistant in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(prompt)]
    replies = ([{"role": "assistant", "content": text}] for text in (preferred, rejected))
    return {"prompt": messages} | dict(zip(("chosen", "rejected"), replies, strict=True))
