"""Statistics of trees that fork or have one reply a turn, and the tables of a journal."""

import math

from rich.console import Console

from aloe_jax.conversation import Turn
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast
from datagen.conversations import write_conversations
from datagen.look.quality import measure
from datagen.look.stats import NONE, quality_table, tables, turn_stats
from datagen.personas import write_personas
from tests.conversations import conversation
from tests.players import small_settings


def text_of(table) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text()


def test_turns_of_a_forked_tree_count_at_their_depth():
    tree = conversation(3)
    side = tree.turns[1].model_copy(update={"user": "one", "follows": 0, "after": "rejected"})
    forked = tree.model_copy(update={"turns": [*tree.turns, side]})
    rows = turn_stats([forked, conversation(1, "c1")])
    assert [(row.turn, row.turns) for row in rows] == [(1, 2), (2, 2), (3, 1)]
    assert rows[1].user_words == (4 + 1) / 2


def test_turns_with_one_reply_have_no_rejected_words():
    alone = Turn(user="a b", preferred="c", rejected=None, continued="preferred")
    (row,) = turn_stats([conversation(1).model_copy(update={"turns": [alone]})])
    assert (row.user_words, row.preferred_words) == (2, 1)
    assert math.isnan(row.rejected_words) and math.isnan(row.hint_preferred) and math.isnan(row.preferred_continued)
    (row,) = turn_stats([conversation(1).model_copy(update={"turns": [alone]}), conversation(1, continued="r")])
    assert (row.rejected_words, row.preferred_continued) == (3, 0)


def test_the_quality_table_has_a_row_a_turn_and_a_mean():
    shown = text_of(quality_table(measure([conversation(2)])))
    assert [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")] == ["1", "2", "mean"]
    assert "persona leakage" in shown and NONE in shown


def test_the_tables_of_a_run(tmp_path):
    settings = small_settings(tmp_path)
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        from aloe_jax.llm.world import seed_personalities, seed_profiles

        cast = Cast(settings.roles, ledger)
        personas, _ = write_personas(ledger, cast, settings, (seed_profiles(), seed_personalities()))
        titles = [str(table.title) for table in tables(ledger, settings)]
        assert "Personas" in titles and "Calls" in titles and "Quality" not in titles
        write_conversations(ledger, cast, personas.training, settings)
        shown = "".join(map(text_of, tables(ledger, settings)))
    assert "12 of 12 conversations, 36 turns" in shown
    assert "Quality" in shown and "Age in" in shown
    assert "responder" in shown and "$" not in shown
