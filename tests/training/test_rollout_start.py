"""What an on-policy run refuses before a call is paid for and before weights are loaded, and what a dry run says."""

import json
import shutil
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm import scripted
from aloe_jax.training import rollout_source, start
from aloe_jax.training.run import train
from tests.training.test_rl import settings, world  # noqa: F401  fixtures

REMOTE = {"provider": "gemini", "model": "m"}


@pytest.fixture
def quiet(monkeypatch):
    """Fails where a user is asked, or weights are loaded."""
    monkeypatch.setitem(scripted._PARTS, "user", lambda inputs, draw: pytest.fail("asked"))
    monkeypatch.setattr(start, "build_model", lambda *arguments: pytest.fail("loaded"))
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def changed(settings, changes):  # noqa: F811
    plain = settings()
    return settings(
        **{
            section: {**getattr(plain, section).model_dump(exclude_unset=True), **change}
            for section, change in changes.items()
            if section != "roles"
        },
        **({"roles": changes["roles"]} if "roles" in changes else {}),
    )


def refused(made, message, dry_run):
    with pytest.raises(AloeError, match=message) as caught:
        train(made, dry_run)
    assert "\n" not in str(caught.value)


# The shortest prompts have 6 tokens here; replies up to 7, at least 2: 3·6 + 3·(2 + 2 + 7), and 6 + 3·2 + 3·(6 + 3·7).
ALWAYS = [
    ({"data": {"row_length": 48}}, r"data\.row_length: a conversation of 3 turns \(rl\.turns\) needs 51 t"),
    (
        {"data": {"row_length": 84}, "rl": {"turns": 2, "branches": 3}},
        r"needs 93 tokens at least, with its last 3 groups of 3 replies \(rl\.group\)",
    ),
    ({"data": {"row_length": 8192}, "rl": {"turns": 200}}, r"rl\.turns: a conversation of 200 turns .* has 512"),
    ({"rl": {"personas": "nowhere.jsonl"}}, r"nowhere\.jsonl"),
    ({"roles": {"judge": {"provider": "gemini"}}}, r"roles\.judge\.model: provider gemini needs a model"),
    ({"rl": {"max_cost": 1.0}, "roles": REMOTE}, r"roles\.user\.price: max_cost needs the price of every model"),
]  # fmt: skip


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(("changes", "message"), ALWAYS)
def test_settings_that_cannot_be_right(settings, quiet, changes, message, dry_run):  # noqa: F811
    refused(changed(settings, changes), message, dry_run)


def test_a_key_is_looked_for_before_weights_are_loaded(settings, quiet, capsys):  # noqa: F811
    made = changed(settings, {"roles": {**REMOTE, "price": {"input": 1.0, "output": 10.0}}, "rl": {"max_calls": 100}})
    train(made, dry_run=True)  # needs none
    shown = capsys.readouterr().out
    assert "calls       at most a step: user 12 (m), judge 36 (m); 48 calls, " in shown
    assert (
        "rl.max_calls: 100 ends the run after about 1 of 3 steps" in shown and "at most in all: 180 calls, $" in shown
    )
    refused(made, r"roles\.user: provider gemini needs a key", dry_run=False)


def test_no_personas_and_too_few(settings, quiet, tmp_path):  # noqa: F811
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    refused(changed(settings, {"rl": {"personas": str(empty)}}), "empty.jsonl", dry_run=True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "chat template"),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}", "chat template"),
    ],
)
def test_a_base_model_that_ends_no_turn(settings, quiet, world, tmp_path, template, message):  # noqa: F811
    folder = tmp_path / "base"
    shutil.copytree(world / "tokenizer", folder)
    for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if file.suffix == ".json":
            values = {key: value for key, value in json.loads(file.read_text()).items() if key != "chat_template"}
            file.write_text(json.dumps(values))
        elif file.exists():
            file.unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    refused(changed(settings, {"model": {"tokenizer": str(folder)}}), message, dry_run=True)


def test_a_judge_that_says_the_same_of_every_reply_ends_the_run(settings, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rollout_source, "MANY", 12)
    monkeypatch.setitem(scripted._PARTS, "judge", lambda inputs, draw: {"reason": "Fine.", "rating": 4})
    made = changed(settings, {"rl": {"rewards": {"judge": 1.0}, "turns": 1}})
    refused(made, r"rl\.rewards: all 12 replies of the first step earn the same reward, 4, so there is nothing", False)
    assert not Path(made.output, "finished.json").exists()
    monkeypatch.setattr(rollout_source, "MANY", 13)  # too few to tell
    train(made.model_copy(update={"steps": 1, "output": f"{made.output}-more"}))
