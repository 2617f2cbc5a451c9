"""The data set card: metadata a hub reads, numbers of the data itself, and the notice first."""

import itertools
import re

import pytest
import yaml

from aloe_jax.conversation import Persona, Turn
from aloe_jax.data.people import People, shared_people
from datagen.look.card import card, write_card
from tests.conversations import another, conversation
from tests.players import some_personas

PROVENANCE = {
    "simulated": True,
    "seed": 7,
    "roles": {
        "persona_writer": {"model": "writer-1", "temperature": 0.8, "thinking_budget": None},
        "responder": {"model": "reply|er", "temperature": 0.7, "thinking_budget": None},
        "judge": {"model": "no part in it", "temperature": 0.0, "thinking_budget": None},
    },
}


def data():
    personas = some_personas(3, 2)
    trees = [
        conversation(2, f"c{number}").model_copy(update={"persona": persona}) for number, persona in enumerate(personas)
    ]
    people = {"train": personas, "benchmark": [Persona(id="p0900-t900", profile="A man of 30.", personality="Dry.")]}
    return people, {"train": trees[:4], "validation": trees[4:]}


def split_card(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_is_what_the_hub_reads():
    from huggingface_hub import DatasetCard

    text = card(*data(), PROVENANCE, name="small")
    fields, _ = split_card(text)
    assert fields["language"] == ["en"] and fields["task_categories"] == ["text-generation"]
    assert fields["size_categories"] == ["n<1K"] and "simulated" in fields["tags"]
    assert DatasetCard(text).data.pretty_name == "small"
    fields, _ = split_card(card(*data(), {}, name="small"))
    assert "simulated" not in fields["tags"]


def test_the_body_states_the_data():
    text = card(*data(), PROVENANCE, name="small")
    _, body = split_card(text)
    assert body.lstrip().splitlines()[2].startswith("> **Simulated")
    for line in (
        "| train | 4 | 2 | 8 | 8 | 0 |",
        "| validation | 2 | 1 | 4 | 4 | 0 |",
        "| benchmark | 1 | 1 | 1 |",
        "| persona writer | writer-1 | 0.8 |",
        r"| responder (writes both replies) | reply\|er | 0.7 |",
        "6 of 6 training personas have a conversation",
        "Seed: 7.",
        "once with that as a hidden hint and once without",
        "Validation's people: 0 of 1 profile are in training too; 2 of 2 personalities are in training too. A",
        "## What the preferences go with",
        "| measure | mean | 95% interval |",
    ):
        assert line in body
    assert "no part in it" not in body
    assert "2410.03642" in body and "@inproceedings" in body
    assert text == card(*data(), PROVENANCE, name="small")


def test_people_that_validation_shares_are_counted_as_the_log_counts_them():
    """By their texts, whatever ids the personas have: here validation has one profile of training under another id."""
    personas, conversations = data()
    train, validation = conversations["train"], conversations["validation"]
    known = train[0].persona
    first = validation[0].model_copy(update={"persona": known.model_copy(update={"id": "another-id"})})
    shared = {**conversations, "validation": [first, *validation[1:]]}
    line = shared_people(*(People.of(tree.persona for tree in shared[split]) for split in ("train", "validation")))
    assert "1 of 2 profiles is in training too (its loss says little" in line
    body = card(personas, shared, PROVENANCE, name="small")
    assert f" Validation's {line}." in body and "has not met, with manners" not in body


def test_every_table_is_whole():
    _, body = split_card(card(*data(), PROVENANCE, name="small"))
    widths = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in body.splitlines()]
    for before, after in itertools.pairwise(widths):
        assert not (before and after) or before == after
    assert "nan" not in body.lower().split()


def test_without_a_simulation_without_hints_without_second_replies():
    alone = Turn(user="a b", preferred="c", rejected=None, continued="preferred")
    trees = [conversation(1).model_copy(update={"turns": [alone]})]
    text = card({}, {"train": trees}, {"roles": {}}, name="chat")
    assert "Simulated" not in text and "twice, without knowing it" in text
    assert "| train | 1 | 1 | 1 | 0 | 0 |" in text
    assert "Seed: not recorded" in text
    with pytest.raises(ValueError, match="no conversations"):
        card({}, {"train": []}, {}, name="empty")


def test_the_loading_snippets_are_python_and_name_the_split():
    text = card(*data(), PROVENANCE, name="small")
    snippets = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        compile(snippet, "snippet", "exec")
        assert '"train"' in snippet


def test_written_under_its_name_only(tmp_path):
    write_card(tmp_path / "README.md", "text")
    write_card(tmp_path / "README.md", "other")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "other")]


def test_manners_are_called_known_only_where_personalities_are_shared():
    trees = {"train": [conversation(2, "c0")], "validation": [another_tree()]}
    assert "whom training has not met, nor their manners." in card({}, trees, PROVENANCE, name="small")
    assert "with manners that it has" in card(*data(), PROVENANCE, name="small")


def another_tree():
    return conversation(2, "c1").model_copy(update={"persona": another(7, 7)})
