"""Plans and reports of what lies in a bucket."""

from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.planning.plan import sizes_of
from aloe_jax.planning.workload import Conversations, Shape
from aloe_jax.report.gathering import gather
from aloe_jax.storage.files import reachable
from tests.gcs.test_run import IN_BUCKET, bucket  # noqa: F401  data and a tokenizer
from tests.models.test_huggingface import GOLDEN
from tests.report import sample


def test_data_and_sizes_are_read_and_weights_left(bucket, settings, tmp_path) -> None:  # noqa: F811
    for file in (GOLDEN / "llama").iterdir():
        bucket.put(f"models/m/{file.name}", file.read_bytes())
    bucket.put("tokenizer/model.safetensors", b"beside it")
    model = {"path": "gs://our-bucket/models/m", "tokenizer": "gs://our-bucket/tokenizer"}
    there = settings("dpo", data=IN_BUCKET, model=model)
    local = settings("dpo", model={"path": str(GOLDEN / "llama")})

    spec, place = sizes_of(there)
    assert (spec, place) == (sizes_of(local)[0], model["path"])
    read, same = Conversations(there, Shape()), Conversations(local, Shape())
    assert not read.assumed and read.said == "read from gs://our-bucket/data/d.jsonl"
    assert read.workload(there, spec).tokens == same.workload(local, spec).tokens
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_what_is_not_in_the_bucket_is_assumed(bucket, settings) -> None:  # noqa: F811
    model = {"path": "gs://our-bucket/runs/sft/Meta-Llama-3-8B-Instruct", "tokenizer": None}
    there = settings("dpo", data={"path": "gs://our-bucket/none.jsonl"}, model=model)
    assert sizes_of(there)[1] == "published sizes of Meta-Llama-3-8B"
    assert "gs://our-bucket/none.jsonl is not there or cannot be read" in Conversations(there, Shape(20)).said


def test_a_plan_needs_no_bucket(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    assert not reachable("gs://our-bucket/models/m")


def test_runs_are_reported_without_their_journals(bucket, tmp_path) -> None:  # noqa: F811
    sample.write_plain(tmp_path / "plain")
    sample.write_preferences(tmp_path / "plain")
    for file in [*(tmp_path / "plain").iterdir(), Path(__file__)]:
        name = file.name if file.parent == tmp_path / "plain" else "journal.sqlite"
        bucket.put(f"runs/plain/{name}", file.read_bytes())
    there, local = gather(["gs://our-bucket/runs/plain"]), gather([tmp_path / "plain"])
    assert [run.name for run in there.runs] == ["plain"] and there.runs == local.runs
    assert gather(["mine=gs://our-bucket/runs/plain"]).runs[0].name == "mine"
    assert not list((tmp_path / "cache").rglob("*.sqlite"))
    with pytest.raises(AloeError, match="gs://our-bucket/runs/none: no such directory"):
        gather(["gs://our-bucket/runs/none"])
