"""Our `stage: rl` as a contestant: rollouts as token trees, with the run's own loop, journal and statistics.

Left out of a run are what the others leave out, too: validation and checkpoints.
"""

from __future__ import annotations

import json
from functools import partial
from math import gcd
from pathlib import Path

import jax
import numpy as np

from aloe_jax.data.loader import FIELDS, Batch
from aloe_jax.data.packing import pack
from aloe_jax.llm.registry import register
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.training import host_memory, start
from aloe_jax.training.callback import Callback, Reached
from aloe_jax.training.loop import loop
from aloe_jax.training.program import build_program
from aloe_jax.training.rollout_source import RolloutSource
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import StartingModel, stage_of
from aloe_jax.training.step import Params, Step, new_state
from aloe_jax.training.stopping import Stop
from aloe_jax.training.totals import read
from tests.benchmarks.peers.our_pairs import chain
from tests.benchmarks.peers.our_players import ENTRY, PROVIDER
from tests.benchmarks.peers.rl_task import MESSAGE, SPREAD, Prompt, RLTask
from tests.benchmarks.peers.task import Pair, word
from tests.benchmarks.peers.worker import Answer, Meter, forget_peak, serve, told

host_memory.use_one_arena()  # before JAX starts its threads, as a run does
WARM = 2  # steps: the second compiles nothing anew


class Counted(RolloutSource):
    """Counts the replies that are learned from, and their tokens."""

    replies = tokens = 0

    def batch(self, step: int, share: slice) -> Batch:
        """See RolloutSource."""
        made = super().batch(step, share)
        self.replies += int(made["weight"].sum())
        self.tokens += int((made["reply_length"] * made["weight"]).sum())
        return made


class Rollouts(Callback):
    """A run, step by step; the callback that reads what a step found, as a run does that logs every step."""

    def prepare(self, request: Answer) -> Answer:
        """Build what `aloe_jax.training.run` builds."""
        task, self.steps = RLTask(**request["task"]), request["steps"]
        settings = settings_of(task, request)
        stage, mesh = stage_of(settings), make_mesh(settings.mesh)
        self.mesh = mesh
        jax.set_mesh(mesh)
        tokenizer, template = start.load_template(settings.model)
        spec = start.resolve_spec(settings, tokenizer, template)
        settings = start.resolve(settings, spec, mesh, "cpu")
        register(ENTRY)
        Path(settings.output).mkdir()
        self.source = Counted(settings, stage, spec, template, mesh)
        self.source.__enter__()
        model = start.build_model(settings, spec, mesh)
        self.program = build_program(settings, stage, model, mesh, self.source.rows, 10**6, self.source.turns)
        logps, token_logps = (
            partial(_on_devices, step, mesh) for step in (self.program.logps, self.program.token_logps)
        )
        self.source.begin(
            StartingModel(
                Path(settings.output),
                model,
                digest=lambda: "",
                logps=partial(logps, model.trained),
                token_logps=token_logps,
                ending=lambda: None,
                note=lambda line: print(line, flush=True),
                progress=told,
            )
        )
        self.known = {prompt.id: self._loss(model.trained, prompt) for prompt in task.known()}
        self.state = new_state(model.trained, self.program.optimizer, mesh)
        self.source.follow(self.state["params"])
        self.callbacks = [*self.source.callbacks(self.program, mesh, 10**6, None)[:1], self]
        self.done = 0
        return {"length": settings.data.row_length, "devices": jax.device_count()}

    def check(self, request: Answer) -> Answer:
        """The loss a token of scripted replies under the first weights."""
        return {"loss": float(np.mean([self.known[id] for id in request["pairs"]]))}

    def warm(self, _: Answer) -> Answer:
        """Compile, and take the first steps."""
        with told("compilation and first steps"):
            self._run(WARM)
        host_memory.keep_freed()
        return {"peak": Meter().read()["peak"], "forgotten": forget_peak()}

    def round(self, _: Answer) -> Answer:
        """The steps of a round."""
        replies, tokens, meter = self.source.replies, self.source.tokens, Meter()
        self._run(self.steps)
        made = meter.read()
        replies, tokens = self.source.replies - replies, self.source.tokens - tokens
        return made | {"replies": replies, "mean_tokens": tokens / replies, "reward": self.reward}

    def after(self, reached: Reached) -> None:
        """Read what a step found."""
        self.state = reached.state
        found = read(reached.totals) | self.source.statistics(reached.step - 1)
        self.reward = found["reward"]
        print({key: round(value, 6) for key, value in found.items()}, flush=True)

    def _run(self, steps: int) -> None:
        numbers = range(self.done, self.done + steps)
        loop(self.program.step, self.state, self.source, numbers, self.mesh, Stop(), self.callbacks)
        self.done += steps

    def _loss(self, params: Params, prompt: Prompt) -> float:
        pair = Pair(prompt.id, prompt.turn, prompt.tokens, prompt.reply, prompt.reply)
        rows = pack([chain(pair, "preferred")] * jax.device_count(), 1024)[0]
        batch = {name: getattr(rows, name) for name in FIELDS}
        logps = np.asarray(_on_devices(self.program.logps, self.mesh, params, batch))
        return -float(logps[0, 1]) / len(prompt.reply)


def settings_of(task: RLTask, request: Answer) -> TrainSettings:
    """The run's settings, beside the persona file that they name."""
    directory = Path(task.directory)
    personas = directory / "personas.jsonl"
    lines = [
        {
            "id": talk.id,
            "profile": "\n".join(" ".join(map(word, message)) for message, _ in talk.turns),
            "personality": "Says what is written.",
        }
        for talk in task.talks()
    ]
    personas.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TrainSettings.model_validate(
        {
            "stage": "rl",
            "output": str(directory / f"ours-{request['together']}-{jax.device_count()}"),
            "model": {"path": str(task.policy), "unroll": task.layers},
            "data": {
                "row_length": row_length(task),
                "rows": task.conversations,
                "accumulate": gcd(request["accumulate"], task.conversations),
            },
            "rl": {
                "personas": str(personas),
                "heldout": 0,
                "conversations": task.conversations,
                "group": task.group,
                "turns": task.turns,
                "overlong": "keep",
                "draw": {"max_new_tokens": task.new_tokens, "rows": request["together"]},
            },
            "roles": {"provider": PROVIDER},
            "optimizer": {"learning_rate": task.learning_rate, "warmup_steps": 0, "schedule": "constant"},
        }
    )


def row_length(task: RLTask) -> int:
    """Tokens of a row that every tree fits: of the longest if replies are cut, else of an average one and room."""
    most = task.new_tokens + 1
    message = round(MESSAGE * (1 + SPREAD)) + 3  # with what marks it
    whole = task.turns * (message + task.group * most)
    usual = task.turns * (message + task.group * task.mean_reply) + 2 * task.group * most
    return -(-(min(whole, usual) if task.mean_reply else whole) // 128) * 128


def _on_devices(step: Step[Params, jax.Array], mesh: jax.sharding.Mesh, params: Params, batch: Batch) -> jax.Array:
    return step(params, place(batch, mesh))


if __name__ == "__main__":
    side = Rollouts()
    serve({"prepare": side.prepare, "check": side.check, "warm": side.warm, "round": side.round})
