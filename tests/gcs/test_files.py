"""Paths in a bucket: reading, writing whole or not at all, copies on the disk, files that grow."""

import sqlite3
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.settings import load_settings
from aloe_jax.storage.copies import local_copy, uploading
from aloe_jax.storage.files import absolute, as_path, is_remote, resolved, write_atomically
from aloe_jax.storage.mirror import Mirror
from datagen.settings import DatagenSettings


def test_a_local_path_is_pathlibs(tmp_path: Path) -> None:
    assert as_path("runs/x") == Path("runs/x") and type(as_path("runs/x")) is type(Path())
    assert local_copy(tmp_path) == tmp_path and not is_remote("gs/x") and not is_remote(Path("runs/gs"))
    write_atomically(tmp_path / "a", "1")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    with uploading(tmp_path / "b") as place:
        assert place == tmp_path / "b"
    with Mirror(tmp_path) as mirror:
        assert mirror.local == tmp_path
        mirror.publish()


@pytest.mark.parametrize("path", ["s3://bucket/x", "http://host/x", Path("hdfs://x/y")])
def test_other_places_are_refused_at_the_door(path) -> None:
    with pytest.raises(AloeError, match=r":// is not understood; give a local path or gs://BUCKET/PATH"):
        as_path(path)


@pytest.mark.parametrize("path", ["gs://", "gs:/", "gs:///", "gs://../x", "gs://Our-Bucket/x", "gs://a b/x"])
def test_a_bucket_without_a_name_is_refused_before_anything_is_asked(path) -> None:
    with pytest.raises(AloeError, match="names no bucket; give gs://BUCKET/PATH"):
        as_path(path)


def test_generated_data_in_a_bucket_are_refused_at_the_door() -> None:
    with pytest.raises(AloeError, match="where a journal cannot be kept; give a local directory"):
        load_settings(DatagenSettings, "configs/demo/data.yaml", ["output=gs://bucket/data"])


def test_without_gcsfs_it_is_said_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(AloeError, match=r"needs gcsfs .*; run pip install 'aloe-jax\[gcs\]'"):
        as_path("gs://bucket/x")


def test_a_path_in_a_bucket(bucket) -> None:
    path = as_path(Path("gs://bucket/runs/x"))  # of which pathlib has eaten a slash
    assert str(path) == "gs://bucket/runs/x" and str(path / "a.txt") == "gs://bucket/runs/x/a.txt"
    assert absolute(path) == resolved("gs://bucket/runs/x") == path
    assert not path.exists()
    write_atomically(path / "a.txt", "hello")
    assert bucket.names() == ["runs/x/a.txt"] and (path / "a.txt").read_text() == "hello"
    bucket.put("runs/x/b.txt", b"by another machine")  # no list of objects is remembered
    assert sorted(file.name for file in path.iterdir()) == ["a.txt", "b.txt"]


def test_a_bucket_that_refuses_is_one_line(bucket) -> None:
    bucket.refuse_after = 0
    with pytest.raises(
        AloeError, match=r"gs://our-bucket/a: cannot be written \(.*takes no more.*may this account use it\?"
    ):
        write_atomically(as_path("gs://our-bucket/a"), "x")


def test_a_directory_is_copied_once_and_again_when_it_changes(bucket, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "original/consolidated.00.pth"):
        bucket.put(f"models/m/{name}", name.encode())
    bucket.put("models/m2/config.json", b"another")
    copy = local_copy("gs://our-bucket/models/m")
    assert copy.name == "m" and tmp_path in copy.parents
    # The weights that are there a second time stay where they are.
    assert sorted(file.name for file in copy.rglob("*")) == ["config.json", "model.safetensors"]
    stamp = (copy / "config.json").stat().st_mtime_ns
    assert local_copy("gs://our-bucket/models/m") == copy and (copy / "config.json").stat().st_mtime_ns == stamp
    bucket.put("models/m/config.json", b"changed")
    assert (local_copy("gs://our-bucket/models/m") / "config.json").read_text() == "changed"
    assert (
        str(local_copy("gs://our-bucket/models/none")) == "gs://our-bucket/models/none"
    )  # whoever reads it says that it is not there


def test_a_file_is_copied_with_its_siblings(bucket) -> None:
    for name in ("d.jsonl", "d.validation.jsonl", "e.jsonl", "d.txt"):
        bucket.put(name, name.encode())
    copy = local_copy("gs://our-bucket/d.jsonl")
    assert copy.read_text() == "d.jsonl"
    assert sorted(file.name for file in copy.parent.iterdir()) == ["d.jsonl", "d.validation.jsonl"]


def test_a_copy_that_does_not_fit_is_refused_before_it_is_made(bucket, monkeypatch) -> None:
    bucket.put("m/a", b"0123456789")
    monkeypatch.setattr("aloe_jax.storage.copies.shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(AloeError, match="set XDG_CACHE_HOME to a directory on a larger disk"):
        local_copy("gs://our-bucket/m")


def test_an_uploaded_directory_is_whole_when_its_last_object_is_there(bucket) -> None:
    for name in ("config.json", "model-00002.safetensors"):
        bucket.put(f"out/{name}", b"old")
    bucket.writes.clear()
    path = as_path("gs://our-bucket/out")
    with uploading(path, last="config.json") as place:
        for name in ("a.txt", "config.json", "model.safetensors"):
            (place / name).write_text("new")
        (place / "below").mkdir()
        (place / "below" / "z").write_text("new")
    assert bucket.writes[-1] == "out/config.json"
    assert bucket.names() == ["out/a.txt", "out/below/z", "out/config.json", "out/model.safetensors"]
    bucket.refuse_after = len(bucket.writes) + 1
    with pytest.raises(AloeError), uploading(path, last="config.json") as place:
        for name in ("a.txt", "b.txt", "config.json"):
            (place / name).write_text("newer")
    assert "out/config.json" not in bucket.names()  # half written, and nobody takes it for a model


def test_a_mirror_begins_with_what_is_there_and_copies_what_changed(bucket) -> None:
    bucket.put("run/metrics.jsonl", b"1\n")
    bucket.put("run/checkpoints/1/params/x", b"large")
    with Mirror("gs://our-bucket/run", ["metrics.jsonl", "train.log"]) as mirror:
        assert [file.name for file in mirror.local.iterdir()] == ["metrics.jsonl"] and mirror.local.name == "run"
        with (mirror.local / "metrics.jsonl").open("a") as file:
            file.write("2\n")
        bucket.writes.clear()
        mirror.publish()
        mirror.publish()
        assert bucket.writes == ["run/metrics.jsonl"] and bucket.text("run/metrics.jsonl") == "1\n2\n"
        (mirror.local / "train.log").write_text("end")
    assert bucket.text("run/train.log") == "end" and not mirror.local.exists()


def test_a_journal_that_is_being_written_is_copied_whole(bucket, tmp_path: Path) -> None:
    with Mirror("gs://our-bucket/run", None, every=0.05) as mirror:
        journal = sqlite3.connect(mirror.local / "journal.sqlite")
        journal.execute("pragma journal_mode=wal")
        journal.execute("create table calls (n integer)")
        for number in range(200):
            journal.execute("insert into calls values (?)", [number])
            journal.commit()
        mirror.publish()
        assert bucket.names() == ["run/journal.sqlite"]  # all of it, though most still lies in the side file
        (tmp_path / "copy.sqlite").write_bytes(bucket.objects["run/journal.sqlite"].content)
        assert sqlite3.connect(tmp_path / "copy.sqlite").execute("select count(*) from calls").fetchone() == (200,)
        journal.close()
