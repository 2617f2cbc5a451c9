"""The two sides of generate.py, each in a process and an environment of its own: `… generate_sides ours DIRECTORY`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.peers.worker import Meter, serve

ROWS, HISTORY, REPLY, USER, TURNS, LONG = 16, 512, 64, 40, 10, 2048  # conversations; the others in tokens or turns
VOCAB, LENGTH = 8192, 4096


def conversations(tokens: int, seed: int = 0) -> np.ndarray:
    """Random ids [ROWS, tokens]."""
    return np.random.default_rng(seed).integers(0, VOCAB, (ROWS, tokens))


def measured(function: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, CPU seconds and the tokens that it made."""
    meter = Meter()
    tokens = function()
    return meter.read() | {"tokens": np.asarray(tokens).tolist()}


def serve_ours(directory: str) -> None:
    """Our side."""
    from aloe_jax.models.opening import load_pretrained
    from aloe_jax.sampling.loading import spread
    from aloe_jax.sampling.sampler import Sampler
    from aloe_jax.sampling.settings import SamplingSettings

    mesh = spread(SamplingSettings().mesh)
    sampler = Sampler(load_pretrained(directory, mesh=mesh), max_length=LENGTH, rows=ROWS)

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        prompts = conversations(request["history"]).tolist()
        return measured(lambda: sampler.generate(prompts, request["new"], stop=()))

    def steps(request: dict[str, Any]) -> dict[str, Any]:
        session = sampler.session(ROWS, HISTORY + REPLY)
        session.extend(conversations(HISTORY).tolist())
        session.reply(1, stop=())  # the history has been read
        return measured(lambda: session.reply(REPLY - 1, stop=()))

    def turns(_: dict[str, Any]) -> dict[str, Any]:
        def run() -> list[list[int]]:
            session = sampler.session(ROWS, TURNS * (USER + REPLY))
            made: list[list[int]] = [[] for _ in range(ROWS)]
            for turn in range(TURNS):
                session.extend(conversations(USER, turn).tolist())
                for number, tokens in enumerate(session.reply(REPLY, stop=())):
                    made[number] += tokens
            return made

        return measured(run)

    def long(_: dict[str, Any]) -> dict[str, Any]:
        session = sampler.session(ROWS, LONG + USER + REPLY)
        tokens = conversations(LONG + USER).tolist()
        session.extend([row[:LONG] for row in tokens])
        session.reply(1, stop=())  # so that the history has been read
        for number, row in enumerate(tokens):
            session.replace(number, row)
        return measured(lambda: session.reply(REPLY, stop=()))

    serve({"reply": reply, "steps": steps, "turns": turns, "long": long})


def serve_torch(directory: str) -> None:
    """The side of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache, logging

    logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa", dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def empty(cache: str, length: int) -> Any:
        return DynamicCache() if cache == "dynamic" else StaticCache(config=model.config, max_cache_len=length)

    def generate(tokens: Any, new: int, cache: str, kept: Any = None) -> Any:
        how = {"past_key_values": kept} if kept is not None else {"cache_implementation": cache}
        with torch.inference_mode():
            return model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                pad_token_id=0, **how,
            )  # fmt: skip

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        prompts = torch.from_numpy(conversations(request["history"]))
        return measured(lambda: generate(prompts, request["new"], request["cache"])[:, request["history"] :])

    def steps(request: dict[str, Any]) -> dict[str, Any]:
        kept = empty(request["cache"], HISTORY + REPLY)
        tokens = generate(torch.from_numpy(conversations(HISTORY)), 1, request["cache"], kept)
        return measured(lambda: generate(tokens, REPLY - 1, request["cache"], kept)[:, HISTORY + 1 :])

    def turns(request: dict[str, Any]) -> dict[str, Any]:
        def run() -> Any:
            kept = empty(request["cache"], TURNS * (USER + REPLY)) if request["carried"] else None
            tokens, made = torch.zeros((ROWS, 0), dtype=torch.long), []
            for turn in range(TURNS):
                tokens = torch.cat([tokens, torch.from_numpy(conversations(USER, turn))], dim=1)
                tokens = generate(tokens, REPLY, request["cache"], kept)
                made.append(tokens[:, -REPLY:])
            return torch.cat(made, dim=1)

        return measured(run)

    def long(request: dict[str, Any]) -> dict[str, Any]:
        tokens = torch.from_numpy(conversations(LONG + USER))
        kept = None
        if request["carried"]:  # filled up to the new turn before the clock starts
            kept = empty(request["cache"], LONG + USER + REPLY)
            with torch.inference_mode():
                model.model(tokens[:, :LONG], past_key_values=kept, use_cache=True)
        return measured(lambda: generate(tokens, REPLY, request["cache"], kept)[:, LONG + USER :])

    serve({"reply": reply, "steps": steps, "turns": turns, "long": long})


if __name__ == "__main__":
    {"ours": serve_ours, "torch": serve_torch}[sys.argv[1]](sys.argv[2])
