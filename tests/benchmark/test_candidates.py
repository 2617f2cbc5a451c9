"""The model candidate with a real, untrained decoder and the project's own tokenizer and chat template."""

import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.candidates import ModelCandidate, path_tokens
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn
from aloe_jax.conversation import Persona
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.evaluate import main
from aloe_jax.llm.world.persona_texts import write_personality, write_profile
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.weights import nested
from aloe_jax.sampling.generation import Generation
from aloe_jax.sampling.session import Session
from aloe_jax.sampling.settings import PLACEMENT, SamplingSettings
from tests.data.families import loaded

DRAW = random.Random(0)
PERSONAS = [Persona(id=f"b{i}", profile=write_profile(DRAW), personality=write_personality(DRAW)) for i in range(2)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [text for persona in PERSONAS for text in (persona.profile, persona.personality)]
    return train_tokenizer(texts, 300, tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture
def folder(tmp_path, tokenizer):
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=16, query_heads=2, kv_heads=1, head_size=8, feed_forward=16,
        max_length=1024, tie_embeddings=True, eos_ids=(tokenizer.eos_token_id,),
    )  # fmt: skip
    draw = np.random.default_rng(0)
    parameters = nested(
        {name: jnp.asarray(draw.normal(0, 0.3, w.shape), jnp.float32) for name, w in spec.weights().items()}
    )
    save_pretrained(spec.assemble(parameters), tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "personas.jsonl").write_text("".join(persona.model_dump_json() + "\n" for persona in PERSONAS))
    (tmp_path / "eval.yaml").write_text(
        f"personas: {tmp_path}/personas.jsonl\nmodels: {{untrained: {{path: {tmp_path}/model}}}}\n"
        "cases: 2\nturns: 2\nbootstrap: 50\nsampling: {max_new_tokens: 8}\nroles: {provider: scripted}\n"
    )
    return tmp_path


def run(folder, output, *more):
    return CliRunner().invoke(main, ["--config", f"{folder}/eval.yaml", f"output={folder}/{output}", *more])


def test_where_replies_are_drawn_is_no_part_of_who_replies(folder):
    """The three settings that `PLACEMENT` names, and no other."""
    plain = ModelCandidate(folder / "model", SamplingSettings()).identity
    changes = {"rows": 3, "max_length": 2048, "mesh": {"data": 1}, "temperature": 0.5, "max_new_tokens": 7}
    assert changes.keys() > PLACEMENT
    for name, value in changes.items():
        changed = ModelCandidate(folder / "model", SamplingSettings.model_validate({name: value})).identity
        assert (changed == plain) == (name in PLACEMENT), name


def test_a_real_model_interrupted_and_resumed(folder, monkeypatch):
    whole = run(folder, "whole")
    assert whole.exit_code == 0, whole.output
    lines = [json.loads(line) for line in (folder / "whole/transcripts.jsonl").read_text().splitlines()]
    assert [line["persona"]["id"] for line in lines] == ["b0", "b1"]
    replies = [turn["reply"] for line in lines for turn in line["turns"]]
    assert len(replies) == len(set(replies)) == 4

    reply, calls = Session.replies, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return reply(*args, **kwargs)

    monkeypatch.setattr(Session, "replies", interrupted)
    assert run(folder, "resumed").exit_code == 130
    assert run(folder, "resumed").exit_code == 0
    assert len(calls) == 3  # one turn, the interrupted one, and that one again
    for name in ("transcripts.jsonl", "metrics.json"):
        found = (folder / "resumed" / name).read_text().replace(f"{folder}/resumed", f"{folder}/whole")
        assert found == (folder / "whole" / name).read_text()


def test_how_devices_share_the_work_changes_no_reply(folder):
    """Every device with rows of its own, and one model split over two of each four."""
    said = []
    for name, mesh in (("rows", "{data: 8}"), ("split", "{data: 4, tensor: 2}")):
        result = run(folder, name, f"sampling.mesh={mesh}", "sampling.temperature=0")
        assert result.exit_code == 0, result.output
        said.append((folder / name / "transcripts.jsonl").read_text())
    assert said[0] == said[1]
    wrong = run(folder, "wrong", "sampling.mesh={data: 3, fsdp: 1}")
    assert wrong.output == "Error: mesh: data 3 x fsdp 1 x tensor 1 needs 3 devices, there are 8\n"


def test_path_tokens_are_the_template_s_prompt(tokenizer):
    template = ChatTemplate(tokenizer)
    end = template.stop[0]

    def reply(text, *more):
        return CandidateReply(text, (*tokenizer(text, add_special_tokens=False)["input_ids"], *more))

    replies = [reply("good day", end), reply("", end), reply("cut off he"), reply("to you", end)]
    dialogue = Dialogue(PERSONAS[0], [DialogueTurn(f"hello {i}", answer) for i, answer in enumerate(replies)])
    path = [*dialogue.history(), {"role": "user", "content": "there"}]
    assert path_tokens(template, dialogue, "there") == template.prompt(path)
    assert path_tokens(template, Dialogue(PERSONAS[0]), "there") == template.prompt(path[-1:])


class FedSession:
    """Notes all that it is given, and answers with a fixed text."""

    def __init__(self, answer):
        self.rows, self.answer = {}, answer

    def replace(self, row, tokens):
        self.rows[row] = list(tokens)

    def replies(self, *_, **__):
        self.rows = {number: [*row, *self.answer] for number, row in self.rows.items()}
        return [Generation(list(self.answer), "stop") for _ in self.rows]


@pytest.mark.parametrize("family", ["llama3", "qwen3", "gemma"])
def test_every_turn_sees_the_template_s_prompt(family, tmp_path):
    """Also where the template rewrites earlier turns, so that a session cannot simply be continued."""
    _, tokenizer, template = loaded(family)
    answer = (*tokenizer("of course", add_special_tokens=False)["input_ids"], template.stop[0])
    sessions: list[FedSession] = []

    class Sessions:
        max_length = 10_000

        def session(self, batch):
            sessions.append(FedSession(answer))
            return sessions[-1]

    (tmp_path / "config.json").write_text("{}")
    candidate = ModelCandidate(tmp_path, SamplingSettings(), load=lambda path, sampling: (Sessions(), template))
    partner = candidate.partner(1)
    dialogue = Dialogue(PERSONAS[0])
    for turn in range(3):
        user = f"hello number {turn}"
        prompt = template.prompt([*dialogue.history(), {"role": "user", "content": user}])
        (reply,) = partner.reply([dialogue], [user], [0])
        assert sessions[-1].rows == {0: [*prompt, *answer]}
        dialogue.exchanges.append(DialogueTurn(user, reply))
    assert len(sessions) == 1


def test_a_stopped_case_leaves_the_other_rows_where_they_are(tmp_path):
    _, tokenizer, template = loaded("llama3")
    answer = (*tokenizer("yes", add_special_tokens=False)["input_ids"], template.stop[0])
    session = FedSession(answer)

    class Sessions:
        max_length = 10_000

        def session(self, batch):
            assert batch == 3
            return session

    (tmp_path / "config.json").write_text("{}")
    candidate = ModelCandidate(tmp_path, SamplingSettings(), load=lambda path, sampling: (Sessions(), template))
    three = [Dialogue(persona) for persona in (*PERSONAS, PERSONAS[0].model_copy(update={"id": "third"}))]
    partner = candidate.partner(3)
    for dialogue, reply in zip(three, partner.reply(three, ["a", "b", "c"], [0, 1, 2]), strict=True):
        dialogue.exchanges.append(DialogueTurn("abc"[three.index(dialogue)], reply))
    before = dict(session.rows)
    partner.reply([three[0], three[2]], ["d", "e"], [0, 2])
    assert all(session.rows[row][: len(before[row])] == before[row] for row in (0, 2))
    assert session.rows[1] == session.rows[0]  # nobody's: it repeats the first
