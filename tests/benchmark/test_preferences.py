"""Log-probs of held-out pairs by tiny random models, against whole forward passes path by path."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from aloe_jax.benchmark.preference_scores import PairScore, score_preferences, summarise, write_preferences
from aloe_jax.benchmark.settings import HeldOutSettings, PreferencesSettings
from aloe_jax.conversation import NOT_RECORDED, Persona
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import train_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.evaluate import main
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.opening import load_pretrained
from aloe_jax.settings import load_settings
from tests.conversations import conversation, forked, single_replies
from tests.random_models import random_decoder

TALKS = [conversation(3, "c0"), conversation(2, "c1", "pr"), forked("f0"), single_replies("s0"), conversation(4, "c2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("preferences")
    texts = [text for talk in TALKS for turn in talk.turns for text in (turn.user, *turn.replies.values())]
    tokenizer = train_tokenizer(texts, 320, root / "tokenizer")
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=16, query_heads=2, kv_heads=1, head_size=8, feed_forward=16,
        max_length=512, tie_embeddings=True, eos_ids=(tokenizer.eos_token_id,),
    )  # fmt: skip
    for seed, name in enumerate(("one", "two", "start")):
        save_pretrained(random_decoder(spec, 0.3, seed), root / name, tokenizer=tokenizer)
    (root / "trees.jsonl").write_text("".join(talk.to_json() + "\n" for talk in TALKS))
    models = f"{{one: {root}/one, two: {root}/two}}"
    (root / "preferences.yaml").write_text(
        f"output: {root}/out\ndata: {{path: {root}/trees.jsonl, row_length: 256, rows: 2}}\nmodels: {models}\n"
        "bootstrap: 200\n"
    )
    return root


def settings(folder, *more):
    return load_settings(PreferencesSettings, folder / "preferences.yaml", more)


def test_keys_of_earlier_versions_are_still_read(folder, tmp_path):
    file = tmp_path / "old.yaml"
    lines = f"output: {folder}/out\ndata: {folder}/trees.jsonl\nmodels: {{one: {folder}/one, two: {folder}/two}}\n"
    file.write_text(lines + "row_length: 256\nrows: 2\nbootstrap: 200\n")
    assert load_settings(PreferencesSettings, file) == settings(folder)
    assert load_settings(PreferencesSettings, file, ["dtype=bfloat16"]) == settings(folder, "model.dtype=bfloat16")
    with pytest.raises(AloeError, match=r"dtype: is called model.dtype now, which is given too"):
        load_settings(PreferencesSettings, file, ["dtype=bfloat16", "model.dtype=float32"])


def by_hand(path):
    """(conversation, turn) -> log-probs of both replies, each from a plain forward pass over its whole path."""
    model = load_pretrained(path)
    from aloe_jax.data.tokenizer import load_tokenizer

    template = ChatTemplate(load_tokenizer(path))
    found = {}
    forward = jax.jit(model)
    for talk in TALKS:
        for number, turn in enumerate(talk.turns):
            if turn.rejected is None:
                continue
            scores = []
            for branch in ("preferred", "rejected"):
                prompt = template.prompt(talk.messages(number))
                reply = template.tokenizer(turn.reply(branch), add_special_tokens=False)["input_ids"]
                ids = [*prompt, *reply, template.stop[0]]
                tokens = jnp.zeros((1, 160), jnp.int32).at[0, : len(ids)].set(jnp.array(ids))
                logps = jax.nn.log_softmax(forward(tokens)[0], axis=-1)
                own = [float(logps[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]
                scores.append((sum(own), len(own)))
            found[talk.id, number] = scores
    return found


def test_numbers_are_those_of_whole_forward_passes(folder):
    found = score_preferences(settings(folder, f"reference={folder}/start"))
    reference = by_hand(folder / "start")
    for name, model in found.models.items():
        pairs = by_hand(folder / name)
        margins = np.array([a[0] - b[0] for a, b in pairs.values()])
        normalised = np.array([a[0] / a[1] - b[0] / b[1] for a, b in pairs.values()])
        rewards = margins - np.array([a[0] - b[0] for a, b in reference.values()])
        assert (model.pairs, model.conversations, model.lost) == (len(pairs), 4, 0)
        assert model.accuracy.value == np.mean(margins > 0)
        assert model.normalised_accuracy.value == np.mean(normalised > 0)
        assert model.reward_accuracy.value == np.mean(rewards > 0)
        assert model.margin.value == pytest.approx(margins.mean(), abs=1e-3)
        assert model.reward_margin.value == pytest.approx(rewards.mean(), abs=1e-3)
        assert model.preferred_logp.value == pytest.approx(np.mean([a[0] for a, _ in pairs.values()]), rel=1e-4)
        assert [one.turn for one in model.by_turn] == [1, 2, 3, 4]
        assert [one.pairs for one in model.by_turn] == [4, 5, 4, 1]
        depth = {place: next(t for t in TALKS if t.id == place[0]).depth(place[1]) + 1 for place in pairs}
        second = [margin for margin, place in zip(margins, pairs, strict=True) if depth[place] == 2]
        assert model.by_turn[1].margin == pytest.approx(np.mean(second), abs=1e-3)
        assert model.margin.low <= model.margin.value <= model.margin.high


def test_a_model_is_its_own_reference_with_even_rewards(folder):
    one, _ = score_preferences(settings(folder, f"reference={folder}/one")).models.values()
    assert one.reward_accuracy.value == 0.5 and one.reward_margin.value == 0


def test_turns_that_fit_no_row_are_counted_and_all_are_scored_on_the_same_pairs(folder):
    whole = score_preferences(settings(folder)).models
    short = score_preferences(settings(folder, "data.row_length=80")).models
    for name, before in whole.items():
        after = short[name]
        assert after.lost > 0 and after.pairs + after.lost == before.pairs
        assert after.reward_margin.value is None and after.by_turn[0].reward_accuracy is None


def test_intervals_take_conversations_whole():
    """Pairs of a conversation that all go the same way are no more than one observation."""
    scores = {(f"c{i}", k): PairScore(k + 1, float(i % 2), 0.5, 3, 3) for i in range(40) for k in range(10)}
    found = summarise(
        scores,
        None,
        list(scores),
        400,
        PreferencesSettings(output="o", data=HeldOutSettings(path="d"), models={"m": "x"}),
        {},
    )
    half = 1.96 * 0.5 / np.sqrt(40)
    assert found.accuracy.value == 0.5
    assert found.accuracy.high - found.accuracy.low == pytest.approx(2 * half, rel=0.15)


def test_people_who_are_not_recorded_are_not_one_person():
    """Fifty converted conversations are as many people, beside ten who are known."""
    random = np.random.default_rng(0)
    scores = {(f"c{i}", 0): PairScore(1, float(random.normal()), 0.0, 3, 3) for i in range(60)}
    settings = PreferencesSettings(output="o", data=HeldOutSettings(path="d"), models={"m": "x"})
    known = {f"c{i}": Persona(id=f"p{i}", profile=f"profile {i}", personality=f"kind {i}") for i in range(10)}
    unknown = {f"c{i}": NOT_RECORDED for i in range(10, 60)}
    found = summarise(scores, None, list(scores), 60, settings, known | unknown)
    assert found == summarise(scores, None, list(scores), 60, settings, {})


def test_the_command(folder):
    found = CliRunner().invoke(main, ["--preferences", "--config", f"{folder}/preferences.yaml"])
    assert found.exit_code == 0, found.output
    assert "14 pairs of 4 conversations" in found.output
    record = json.loads((folder / "out/preferences.json").read_text(), parse_constant=pytest.fail)
    assert (record["format"], record["version"], list(record["models"])) == ("aloe-preferences", 1, ["one", "two"])
    assert record["models"]["one"]["reward_accuracy"]["value"] is None
    assert len(record["models"]["two"]["by_turn"]) == 4
    assert load_settings(PreferencesSettings, folder / "out/config.yaml") == settings(folder)
    results = score_preferences(settings(folder))
    write_preferences(settings(folder), results)
    assert json.loads((folder / "out/preferences.json").read_text()) == record


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.m=nowhere", "models.m: nowhere is not a directory"),
        ("reference=nowhere", "reference: nowhere is not a directory"),
        ("data=nowhere.jsonl", "nowhere.jsonl"),
        ("data.row_length=8", "data.row_length"),
        ("dtype=float16", "dtype"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, override, message):
    found = CliRunner().invoke(main, ["--preferences", "--config", f"{folder}/preferences.yaml", override])
    assert found.exit_code == 1 and message in found.output and "Traceback" not in found.output


def test_pairs_that_could_not_be_scored_are_the_last_line_and_status_4(folder):
    config_file = ["--preferences", "--config", f"{folder}/preferences.yaml", f"output={folder}/short"]
    whole = CliRunner().invoke(main, config_file)
    assert whole.exit_code == 0 and "coverage" not in whole.output
    short = CliRunner().invoke(main, [*config_file, "data.row_length=64"])
    assert short.exit_code == 4
    last = short.stderr.strip().splitlines()[-1]
    told = r"coverage \d+\.\d%: (\d+) of \d+ pairs are missing: \1 longer than a row \(raise data.row_length\) "
    assert re.fullmatch(told + rf"\({folder}/one\)", last), last
    nothing = CliRunner().invoke(main, [*config_file, "data.row_length=8"])
    assert nothing.exit_code == 1 and nothing.stderr.strip().count("Error: ") == 1
