"""Objects of any name, and processes that are killed: what is copied lands below its target, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.storage.copies import local_copy, uploading, versions
from aloe_jax.storage.files import as_path
from aloe_jax.storage.mirror import Mirror

HOSTILE = (
    "../x", "../../../../../../../x", "a/../../x", "./x", "a/./x", "..", "a/..", "/etc/x", "//x", "a//b", 
    "a\\..\\..\\x", "..\\x", "C:\\x", "a\0b", "long" * 64, "config.json/x",
)  # fmt: skip


def outside(root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file() and "cache" not in file.parts]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(bucket, tmp_path: Path, name: str) -> None:
    bucket.put("models/m/config.json", b"{}")
    bucket.put(f"models/m/{name}", b"evil")
    with pytest.raises(AloeError, match=r"gs://our-bucket/models\S*: holds .*; rename or remove") as refused:
        local_copy("gs://our-bucket/models/m")
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(AloeError, match="rename or remove"):
        Mirror("gs://our-bucket/models/m", begins=None)
    assert outside(tmp_path) == [] and not list((tmp_path / "cache").rglob("config.json"))


@pytest.mark.parametrize("name", ["d/../../x.jsonl", "d..jsonl", "d.\\..\\x.jsonl"])
def test_siblings_of_a_file(bucket, tmp_path: Path, name: str) -> None:
    """NAME.validation.jsonl is one; what leads elsewhere is none, or is refused."""
    bucket.put("d.jsonl", b"1")
    bucket.put(name, b"evil")
    try:
        assert local_copy("gs://our-bucket/d.jsonl").read_bytes() == b"1"
    except AloeError as error:
        assert "rename or remove" in str(error)
    assert outside(tmp_path) == []


def test_names_that_are_only_unusual_are_copied(bucket) -> None:
    names = ["a b", "..a", "a..", ".hidden", "[x]*?", "[bold]x[/]", "ü/é", "-rf", "a\nb", "%2e%2e%2fx"]
    for name in names:
        bucket.put(f"m/{name}", name.encode())
    copy = local_copy("gs://our-bucket/m")
    assert sorted(file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()) == sorted(names)
    assert all((copy / name).read_text() == name for name in names)


def test_the_empty_objects_of_a_console_are_left_out(bucket) -> None:
    for name, content in (("m/", b""), ("m/below/", b""), ("m/below/a", b"1")):
        bucket.put(name, content)
    copy = local_copy("gs://our-bucket/m")
    assert [file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()] == ["below/a"]


def test_an_upload_deletes_below_its_target_only(bucket) -> None:
    for name in ("out/a", "out2/a", "outside", "ou"):
        bucket.put(name, b"x")
    with uploading(as_path("gs://our-bucket/out")) as place:
        (place / "b").write_text("1")
    assert bucket.names() == ["ou", "out/b", "out2/a", "outside"]


COPYING = """
import sys
from aloe_jax.storage.copies import local_copy
print(local_copy(sys.argv[1]), flush=True)
"""


def test_a_copy_that_was_killed_is_made_again(bucket, tmp_path: Path) -> None:
    for number in range(300):
        bucket.put(f"m/{number}", bytes(1000))
    process = subprocess.Popen([sys.executable, "-c", COPYING, "gs://our-bucket/m"], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list((tmp_path / "cache").rglob("m/*")):
        assert process.poll() is None and time.monotonic() < end
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    copy = local_copy("gs://our-bucket/m")
    assert {file.name: file.stat().st_size for file in copy.iterdir()} == {str(number): 1000 for number in range(300)}


@pytest.mark.parametrize("damage", ["cut", "removed", "note"])
def test_a_copy_that_is_not_whole_any_more_is_made_again(bucket, damage: str) -> None:
    bucket.put("m/a", b"0123456789")
    copy = local_copy("gs://our-bucket/m")
    if damage == "cut":
        os.truncate(copy / "a", 3)
    elif damage == "removed":
        (copy / "a").unlink()
    else:
        (copy.parent.parent / "copied.json").write_text("{")
    assert (local_copy("gs://our-bucket/m") / "a").read_bytes() == b"0123456789"


def test_an_object_that_changes_while_it_is_copied_is_not_kept(bucket, monkeypatch) -> None:
    bucket.put("m/a", b"0123456789")
    known = versions("gs://our-bucket/m")
    bucket.put("m/a", b"01234")
    monkeypatch.setattr("aloe_jax.storage.copies.versions", lambda path: known)
    with pytest.raises(AloeError, match="changed while it was copied"):
        local_copy("gs://our-bucket/m")
    monkeypatch.undo()
