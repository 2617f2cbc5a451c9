"""An on-policy run whose directory is in a bucket: its journal is there, and nothing is asked twice."""

import sqlite3

from aloe_jax.llm import scripted
from aloe_jax.models.run_directory import is_finished
from aloe_jax.training.run import train
from tests.training.test_rl import settings, world  # noqa: F401  fixtures


def test_the_journal_of_a_run_is_in_the_bucket(bucket, settings, tmp_path, monkeypatch) -> None:  # noqa: F811
    there = settings(steps=1).model_copy(update={"output": "gs://our-bucket/runs/rl"})
    train(there)
    assert is_finished(there.output)
    file = tmp_path / "journal.sqlite"
    file.write_bytes(bucket.objects["runs/rl/journal.sqlite"].content)
    with sqlite3.connect(file) as journal:
        assert journal.execute("SELECT count(*) FROM calls").fetchone()[0] > 20
    for name in [name for name in bucket.names() if "/checkpoints/" in name or name.endswith("finished.json")]:
        del bucket.objects[name]
    monkeypatch.setitem(scripted._PARTS, "judge", lambda inputs, draw: {"rating": 0})  # none could be taken
    train(there)
    assert is_finished(there.output)
