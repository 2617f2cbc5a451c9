"""Replacing directories: only our own, whole at every moment, and nothing left behind, whoever is killed when."""

import json
import os
import signal
import subprocess
import sys

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.storage import integrity, replacing
from aloe_jax.storage.replacing import Kind

KIND = Kind("thing", (r"part\d\.bin", r"about\.md"), (("about.md", "made by aloe"),), by="thing")

# Writes TEXT into a directory as a command does, and kills itself just before the NUMBERth of the calls that change
# names or remove files ("" as number: never).
WRITER = """
import os, shutil, signal, sys
from pathlib import Path
from aloe_jax.storage import replacing
target, text, number, atomic = sys.argv[1:]
count = 0
def counted(real):
    def call(*arguments, **keywords):
        global count
        count += 1
        if str(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    return call
for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
replacing.exchange = counted(replacing.exchange) if atomic == "yes" else lambda one, other: False
from tests.storage.test_replacing import KIND
with replacing.replacing(target, KIND) as place:
    (place / "part1.bin").write_text(text)
    (place / "about.md").write_text(text)
print(count)
"""


def write(target, text="old", kind=KIND):
    with replacing.replacing(target, kind) as place:
        (place / "part1.bin").write_text(text)
        (place / "about.md").write_text(text)


def write_elsewhere(target, text, number="", atomic="yes"):
    """`write` in a process of its own, which may kill itself."""
    arguments = [sys.executable, "-c", WRITER, str(target), text, str(number), atomic]
    return subprocess.run(arguments, check=False, capture_output=True, text=True)


def text_of(target):
    """What is in a whole directory; fails where its files are of different ones."""
    assert integrity.damage(target) is None
    (text,) = {(target / name).read_text() for name in ("part1.bin", "about.md")}
    return text


def test_what_was_there_before_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for text in ("one", "two"):
        write(tmp_path / "out", text)
        assert text_of(tmp_path / "out") == text
        assert os.listdir(tmp_path) == ["out"]
    assert json.loads((tmp_path / "out/digests.json").read_text())["#kind"] == "thing"


@pytest.mark.parametrize("atomic", ["yes", "no"])
def test_killed_at_any_moment_the_old_or_the_new_one_is_whole(tmp_path, atomic):
    """As many kills as there are calls; `atomic`: whether the disk can exchange two names in one step."""
    out = tmp_path / "out"
    write(out, "old")
    calls = int(write_elsewhere(out, "old", "", atomic).stdout)
    assert calls > 6
    for number in range(1, calls + 1):
        assert write_elsewhere(out, "new", number, atomic).returncode == -signal.SIGKILL
        if atomic == "yes":
            assert text_of(out) in ("old", "new")
        else:
            replacing.recover(out)  # what the next command does first
            assert text_of(out) in ("old", "new")
        write(out, "old")
        assert text_of(out) == "old"
        assert sorted(os.listdir(tmp_path)) == ["out"], number


def test_an_exchange_that_the_disk_cannot_do_changes_nothing(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        (place / "name").write_text(place.name)
    if replacing.exchange(one, other):
        assert (one / "name").read_text() == "other"
    else:
        assert (one / "name").read_text() == "one"


def test_nothing_changes_where_the_new_one_cannot_be_made(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(KeyError), replacing.replacing(tmp_path / "out", KIND) as place:
        (place / "part1.bin").write_text("half")
        raise KeyError
    assert text_of(tmp_path / "out") == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_path_whose_middle_is_not_there_yet(tmp_path):
    write(tmp_path / "not" / "yet" / ".." / "out")
    assert text_of(tmp_path / "not" / "yet" / ".." / "out") == "old"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere" / "real")
    for text in ("one", "two"):
        write(tmp_path / "out", text)
        assert (tmp_path / "out").is_symlink()
        assert text_of(tmp_path / "elsewhere" / "real") == text


def an_extra_file(out):
    (out / "part2.bin").write_text("mine")  # a name as ours are, and not ours


def a_file_in_a_directory(out):
    (out / "thesis").mkdir()
    (out / "thesis" / "chapter1").write_text("x")


def an_edited_text(out):
    (out / "about.md").write_text("I have written this anew")


def a_link_in_it(out):
    (out / "other").symlink_to(out.parent)


def an_empty_directory(out):
    (out / "room").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (an_extra_file, r"out: holds part2\.bin, which no thing wrote"),
        (a_file_in_a_directory, "out: holds thesis/chapter1, which no thing wrote"),
        (an_edited_text, r"out: about\.md was changed after it was written; move the directory away"),
        (a_link_in_it, "out: holds other, which no thing wrote"),
        (an_empty_directory, "out: holds room, which no thing wrote"),
        (lambda out: (out / "digests.json").write_text("[]"), r"digests\.json: cannot be read"),
        (lambda out: (out / "digests.json").write_text("{}"), r"out: holds about\.md, which no thing wrote"),
    ],
)
def test_what_somebody_has_added_or_changed_is_not_removed(tmp_path, spoil, message):
    out = tmp_path / "out"
    write(out)
    spoil(out)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in out.rglob("*"))
    with pytest.raises(AloeError, match=message):
        write(out, "new")
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in out.rglob("*")) == before


def test_another_kind_a_file_and_the_root_are_not_replaced(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(AloeError, match="out: has an earlier thing in it, which no other thing wrote"):
        write(tmp_path / "out", kind=Kind("other thing", by="other thing"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AloeError, match="file: is a file; give another directory"):
        write(tmp_path / "file")
    with pytest.raises(AloeError, match="/: cannot be replaced"):
        write("/")


def test_damaged_weights_may_be_written_again(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out/part1.bin").write_text("damaged")
    (tmp_path / "out/about.md").unlink()
    write(tmp_path / "out", "new")
    assert text_of(tmp_path / "out") == "new"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"part1.bin": "", "about.md": "It was made by aloe."}, None),
        ({"part1.bin": "", "about.md": "It was made by somebody else."}, "nothing in it says that aloe-jax wrote it"),
        ({"part1.bin": ""}, "nothing in it says that aloe-jax wrote it"),
        ({"part1.notes.bin": "", "about.md": "made by aloe"}, r"holds part1\.notes\.bin, which no thing wrote"),
    ],
)
def test_directories_of_earlier_versions_are_recognised_by_exact_names(tmp_path, files, message):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    if message is None:
        write(out, "new")
        assert text_of(out) == "new"
    else:
        with pytest.raises(AloeError, match=message):
            write(out, "new")
        assert sorted(os.listdir(out)) == sorted(files)


def test_two_processes_do_not_write_the_same_directory(tmp_path):
    with replacing.replacing(tmp_path / "out", KIND) as place:
        (place / "part1.bin").write_text("first")
        (place / "about.md").write_text("first")
        second = write_elsewhere(tmp_path / "out", "second")
        assert second.returncode == 1
        assert f"another process is writing it (process {os.getpid()} on" in second.stderr
    assert text_of(tmp_path / "out") == "first"
    assert os.listdir(tmp_path) == ["out"]
