"""Families of models by name, and the warnings of self-preference bias."""

import json

import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.self_preference import self_preference_warnings
from aloe_jax.benchmark.settings import EvaluateSettings
from aloe_jax.evaluate import main as evaluate
from aloe_jax.llm.families import family, family_of_name, known_family, self_preference_warning
from aloe_jax.llm.settings import RoleSettings, RolesSettings
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.publishing.model_card import Origin, full_card
from aloe_jax.rollouts import self_preference as rollouts
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.training.base import base_name
from aloe_jax.training.settings import TrainSettings
from datagen.look.card import card
from datagen.self_preference import models_of
from datagen.self_preference import self_preference_warnings as data_warnings
from datagen.settings import DatagenSettings
from tests.conversations import conversation

NAMES = {
    "gemini-3.5-flash-lite": "gemini",
    "models/gemini-2.0-pro": "gemini",
    "gemma-3-27b-it": "gemma",
    "gpt-4o-mini-2024-07-18": "gpt",
    "chatgpt-4o-latest": "gpt",
    "openai/gpt-oss-120b": "gpt",
    "o3-mini": "gpt",
    "claude-sonnet-4": "claude",
    "anthropic.claude-3-haiku": "claude",
    "meta-llama/Llama-3.1-8B-Instruct": "llama",
    "runs/dpo/Meta-Llama-3-8B-Instruct": "llama",
    "Qwen/Qwen2-7B-Instruct": "qwen",
    "qwq-32b": "qwen",
    "mistralai/Mixtral-8x7B": "mistral",
    "ministral-8b": "mistral",
    "allenai/OLMo-7B-0724-Instruct-hf": "olmo",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": "deepseek",
    "microsoft/Phi-4": "phi",
    "llama.cpp/qwen2": "qwen",  # the last part that names one
    "runs/demo/dpo": None,
    "philosopher": None,  # a word that only begins like one
    "no1": None,
}


@pytest.mark.parametrize(("name", "wanted"), NAMES.items())
def test_families_by_name(name, wanted):
    assert known_family(name) == wanted


def test_an_unknown_model_is_a_family_of_its_own_and_a_script_is_of_none():
    assert family_of_name("Our-Judge") == family_of_name("our-judge") == "our-judge"
    assert family(RoleSettings(provider="scripted")) is None and family_of_name("scripted") is None
    assert family(RoleSettings(provider="openai", model="gpt-5-mini")) == "gpt"
    assert self_preference_warning("a", None, {"b": None}, "r") is None  # two scripts are no family
    assert self_preference_warning("a", "gpt", {"b": "gpt", "c": "llama", "d": "gpt"}, "r").startswith(
        "a is of the same family as b and d (gpt): models rate text from their own family higher (self-preference bias)"
    )


GEMINI = {"provider": "gemini", "model": "gemini-3.5-flash-lite"}
GPT = {"provider": "openai", "model": "gpt-5-mini"}
LLAMA = {"provider": "openai", "model": "meta-llama/Llama-3.1-8B-Instruct"}


def benchmark(roles, models, **judging):
    given = {"output": "o", "personas": "p", "roles": roles, "models": models, "judging": judging}
    return self_preference_warnings(EvaluateSettings.model_validate(given))


def test_a_judge_of_the_family_of_users_or_of_a_model_under_test():
    (sentence,) = benchmark(GEMINI, {"base": {"remote": GEMINI}, "ours": {"path": "nowhere/dpo"}})
    assert sentence.startswith("the judge is of the same family as the users and the model base (gemini)")
    assert "roles.judge" in sentence and "\n" not in sentence
    (sentence,) = benchmark({**GEMINI, "judge": LLAMA}, {"ours": {"path": "models/Meta-Llama-3-8B-Instruct"}})
    assert sentence.startswith("the judge is of the same family as the model ours (llama)")
    assert benchmark({**GEMINI, "judge": GPT}, {"ours": {"path": "models/Meta-Llama-3-8B-Instruct"}}) == []
    assert benchmark({"provider": "scripted"}, {"low": {"scripted": "generic"}}) == []


def test_every_judge_is_looked_at():
    judges = {"same": {**GEMINI, "temperature": 0.0}, "other": GPT}
    (sentence,) = benchmark(GEMINI, {"ours": {"path": "nowhere/dpo"}}, judges=judges)
    assert sentence.startswith("the judge same is of the same family as the users (gemini)")


def test_the_verifier_of_the_training_data_is_somebody_else_too(tmp_path):
    run, data = tmp_path / "dpo", tmp_path / "trees"
    run.mkdir()
    data.mkdir()
    (data / "metadata.json").write_text('{"simulated": false, "roles": {"verifier": {"model": "gpt-4o"}}}')
    (run / "spec.json").write_text("{}")
    (run / "config.yaml").write_text(f"stage: dpo\noutput: o\nmodel: {{path: Qwen2-7B}}\ndata: {{path: {data}}}\n")
    (sentence,) = benchmark({**GEMINI, "judge": GPT}, {"ours": {"path": str(run)}})
    assert sentence.startswith("the judge is of the same family as the verifier of the training data of ours (gpt)")
    (sentence,) = benchmark({**GPT, "judge": {"provider": "openai", "model": "qwen3"}}, {"ours": {"path": str(run)}})
    assert sentence.startswith("the judge is of the same family as the model ours (qwen)")


def test_data_generation_with_one_model_for_all():
    def warnings(roles):
        return data_warnings(models_of(DatagenSettings.model_validate({"output": "o", "roles": roles})))

    (sentence,) = warnings(GEMINI)
    assert sentence.startswith("the verifier is of the same family as the user, the inducer and the responder")
    assert warnings({**GEMINI, "verifier": GPT}) == []
    assert warnings({"provider": "scripted"}) == []
    assert data_warnings({"verifier": "scripted", "user": "scripted"}) == []  # as data sets store it


def test_on_policy_training_and_its_watch():
    def said(roles, policy="runs/dpo", **rl):
        return rollouts.self_preference_warnings(
            RLSettings.model_validate(rl), RolesSettings.model_validate(roles), policy
        )

    (sentence,) = said(GEMINI)
    assert sentence.startswith("the judge is of the same family as the users (gemini)")
    assert said({**GEMINI, "judge": GPT}) == []
    assert said(GEMINI, rewards={"belief": 1.0}) == []  # no judge is asked
    (sentence,) = said({**GEMINI, "judge": LLAMA}, "runs/dpo/Meta-Llama-3-8B-Instruct")
    assert sentence.startswith("the judge is of the same family as the policy (llama)")
    watch = {"roles": {"judge": {**GPT, "model": "gpt-4o"}}}
    (sentence,) = said({**GEMINI, "judge": GPT}, watch=watch)
    assert sentence.startswith("the judge of the watch is of the same family as the training's judge (gpt)")
    assert said({**GEMINI, "judge": LLAMA}, watch=watch) == []


def test_a_policy_is_of_the_family_of_what_its_runs_started_from(tmp_path):
    for folder, base in (("gemini", "/models/llama/base-7b"), ("runs", "/gemini/Meta-Llama-3-8B")):
        sft, dpo = tmp_path / folder / "sft", tmp_path / folder / "dpo"
        for run, start in ((sft, base), (dpo, str(sft))):
            run.mkdir(parents=True)
            (run / "spec.json").write_text("{}")
            (run / "config.yaml").write_text(f"stage: sft\noutput: o\nmodel: {{path: {start}}}\ndata: {{path: d}}\n")
    assert base_name(str(tmp_path / "gemini/dpo")) == "base-7b"  # who stored it says nothing
    assert base_name(str(tmp_path / "runs/dpo")) == "Meta-Llama-3-8B"
    assert base_name("google/gemini-x") == "gemini-x" and base_name(None) is None
    (tmp_path / "runs/dpo/config.yaml").write_text("stage: of another version")
    assert base_name(str(tmp_path / "runs/dpo")) == "dpo"


# ---------------------------------------------------------------- where a person meets it


def test_a_benchmark_warns_before_it_asks_anything(tmp_path):
    person = {"id": "b0", "profile": "She keeps goats.", "personality": "Blunt."}
    (tmp_path / "personas.jsonl").write_text(json.dumps(person) + "\n")
    role = "{provider: openai, model: gpt-5-mini, endpoint: 'http://localhost:1/v1'}"
    lines = [f"output: {tmp_path}/out", f"personas: {tmp_path}/personas.jsonl", "cases: 1", f"roles: {role}"]
    (tmp_path / "eval.yaml").write_text("\n".join([*lines, f"models: {{far: {{remote: {role}}}}}\n"]))
    given = ["--config", f"{tmp_path}/eval.yaml", "--dry-run"]
    found = CliRunner().invoke(evaluate, given)
    warnings = [line for line in found.output.splitlines() if line.startswith("warning: ")]
    assert found.exit_code == 0 and len(warnings) == 1
    assert warnings[0].startswith("warning: the judge is of the same family as the users and the model far (gpt)")
    other = "roles.judge={provider: openai, model: qwen3, endpoint: 'http://localhost:1/v1'}"
    assert "warning" not in CliRunner().invoke(evaluate, [*given, other]).output


def test_the_card_of_a_model_repeats_what_was_warned_of():
    spec = DecoderSpec(vocab=9, layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=8)
    given = {"stage": "rl", "output": "o", "model": {"path": "runs/dpo"}, "data": {"row_length": 4096, "rows": 16}}

    def written(roles, same_family=()):
        stage = TrainSettings.model_validate({**given, "rl": {"personas": "p"}, "roles": roles})
        scores = {"cases": 1, "turns": 1, "al": [2.0], "same_family": list(same_family)}
        return full_card(spec, Origin((stage,), "base", "mit"), scores, [])

    assert "- Warning: the judge is of the same family as the users (gemini)" in written(GEMINI)
    assert "Warning" not in written({**GEMINI, "judge": GPT})
    assert "Warning: the judge is of the same family." in written(
        {**GEMINI, "judge": GPT}, ["the judge is of the same family"]
    )
    assert "comparable with those of models that the same judge rated" in written(GEMINI)


def test_the_card_of_data_says_who_verified():
    def written(**models):
        roles = {name: {"model": model, "temperature": 0.8} for name, model in models.items()}
        trees = {"train": [conversation(2, "c0")], "validation": [conversation(2, "c1")]}
        return card({}, trees, {"simulated": False, "seed": 0, "roles": roles}, name="d")

    alike = dict.fromkeys(("user", "inducer", "responder", "verifier"), "gemini-3.5-flash-lite")
    said = "**Self-preference bias**: the verifier is of the same family as the user, the inducer and the responder"
    assert said in written(**alike)
    assert "Self-preference bias" not in written(**alike | {"verifier": "gpt-5-mini"})
    assert "Self-preference bias" not in written(**dict.fromkeys(alike, "scripted"))
