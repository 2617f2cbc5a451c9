"""Outputs have one writer at a time, are replaced when they are whole, and a disk that refuses is one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.settings import dump_settings
from aloe_jax.storage.disk import DiskError, refusals
from datagen.output_files import replacing_file
from tests.conversations import conversation
from tests.forked import Process
from tests.players import small_settings

WRITER = """
import sys, time
from pathlib import Path
from datagen.output_files import replacing_file
with replacing_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def datagen(*arguments, wait=True):
    process = Process("datagen", *arguments)
    return finished(process) if wait else process


def finished(process):
    """(status, stdout, stderr)"""
    out, err = process.communicate()
    return process.returncode, out, err


def one_line(found, *said):
    status, _, err = found
    assert status == 1 and "Traceback" not in err and err.count("\n") == 1 and err.startswith("Error: "), err
    for part in said:
        assert part in err
    return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config whose journal holds personas and conversations."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "c.yaml").write_text(dump_settings(small_settings(folder / "run", count=6, turns=2)))
    for command in ("personas", "conversations"):
        assert datagen(command, "--config", folder / "c.yaml")[0] == 0
    return folder


def everything(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def copied(run, folder):
    """The run's journal in another output."""
    folder.mkdir(parents=True)
    (folder / "journal.sqlite").write_bytes((run / "run/journal.sqlite").read_bytes())
    return "--config", run / "c.yaml", f"output={folder}"


# ---------------------------------------------------------------- one file


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_file(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.txt"])
    with replacing_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["a.txt"])


def test_a_second_writer_is_refused_and_a_killed_one_leaves_nothing_in_the_way(tmp_path):
    path = tmp_path / "a.txt"
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writing\n"
    with pytest.raises(AloeError, match=rf"a\.txt: another process is writing it \(process {other.pid} on "):  # noqa: SIM117
        with replacing_file(path):
            pass
    other.kill()
    other.wait()
    other.stdout.close()
    with replacing_file(path) as partial:
        partial.write_text("new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["a.txt"])


@pytest.mark.parametrize("number", [28, 30, 5, 13])
def test_what_a_disk_refuses_is_one_line(tmp_path, number):
    with pytest.raises(DiskError) as caught, refusals(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path}/x: cannot be written ({os.strerror(number)}); ")


# ---------------------------------------------------------------- build


def test_of_two_builds_at_once_one_is_refused_in_one_line(run, tmp_path):
    arguments = copied(run, tmp_path / "out")
    for _ in range(3):  # they may miss each other
        both = [datagen("build", *arguments, wait=False) for _ in range(2)]
        found = sorted((finished(process) for process in both), key=lambda one: one[0])
        assert found[0][0] == 0
        if found[1][0]:
            break
    assert one_line(found[1], "/out/tfds: another process is building it (process ")
    alone = copied(run, tmp_path / "alone")
    assert datagen("build", *alone)[0] == 0
    one, other = (everything(tmp_path / name / "tfds/aloe_trees") for name in ("out", "alone"))
    assert one == other


def test_a_killed_build_leaves_nothing_that_stays(run, tmp_path):
    arguments = copied(run, tmp_path / "out")
    assert datagen("build", *arguments)[0] == 0
    whole = everything(tmp_path / "out")
    work = tmp_path / "out/tfds/.writing-aloe_trees"
    process = datagen("build", *arguments, wait=False)
    while process.poll() is None and not work.exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    finished(process)
    assert datagen("build", *arguments)[0] == 0
    assert everything(tmp_path / "out") == whole
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_a_data_set_that_a_killed_build_had_moved_aside_is_put_back(run, tmp_path):
    arguments = copied(run, tmp_path / "out")
    assert datagen("build", *arguments)[0] == 0
    root = tmp_path / "out/tfds"
    whole = everything(root)
    (root / ".writing-aloe_trees").mkdir()
    (root / "aloe_trees/1.0.0").rename(root / ".writing-aloe_trees/replaced")
    # This build fails before it has another one.
    found = datagen("build", *arguments, "conversations.validation_fraction=0.3", "seed=1")
    assert found[0] == 1
    (root / "aloe_personas").rename(root / "aside")
    (root / "aloe_personas").write_text("in the way")
    assert one_line(datagen("build", *arguments), "aloe_personas")
    (root / "aloe_personas").unlink()
    (root / "aside").rename(root / "aloe_personas")
    assert datagen("build", *arguments)[0] == 0
    assert everything(root) == whole


# ---------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """A small disk, and functions that leave so many KiB of it free, and that make it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
    if made.returncode:
        pytest.skip("a disk can be mounted only by root")

    class Disk(type(place)):
        def leave(self, kib):
            fill = os.open(place / "fill", os.O_WRONLY | os.O_CREAT)
            try:
                while True:
                    os.write(fill, bytes(4096))
            except OSError:
                os.ftruncate(fill, os.fstat(fill).st_size // 4096 * 4096 - kib * 1024)
            finally:
                os.close(fill)

        def read_only(self):
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)

    yield Disk(place)
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("free", [0, 24])
def test_a_full_disk_is_one_line_of_every_command_that_writes(run, disk, tmp_path, free):
    arguments = copied(run, disk / "out")
    trees = tmp_path / "trees.jsonl"
    trees.write_text("".join(conversation(8, f"c{n}").to_json() + "\n" for n in range(400)))
    (disk / "old.jsonl").write_text("old\n")
    disk.leave(free)
    assert one_line(datagen("build", *arguments), "cannot be written (No space left on device)")
    assert not [path for path in (disk / "out").rglob("*") if path.is_file() and "tfds" in path.parts]
    for command in (
        ("convert", trees, disk / "old.jsonl", "--from", "ours", "--to", "trl"),
        ("browse", "--data", trees, "--output", disk / "new.html"),
    ):
        assert one_line(datagen(*command), "cannot be written (No space left on device); free some space")
    assert sorted(os.listdir(disk)) == ["fill", "old.jsonl", "out"]
    assert (disk / "old.jsonl").read_text() == "old\n"


def test_a_journal_on_a_read_only_disk_is_read_by_every_command_that_only_reads(run, disk, tmp_path):
    arguments = copied(run, disk / "out")
    disk.read_only()
    for command in ("stats", "coverage"):
        status, out, _ = datagen(command, *arguments)
        assert status == 0 and "Simulated" in out
    page = tmp_path / "page.html"
    assert datagen("browse", *arguments, "--output", page)[0] == 0 and page.stat().st_size
    assert datagen("conversations", "--dry-run", *arguments)[0] == 0
    for command, what in (("build", "out/tfds"), ("browse", "out/browse.html")):
        assert one_line(datagen(command, *arguments), f"{what}: cannot be written (Read-only file system); give a path")
    assert one_line(
        datagen("conversations", *arguments), "journal.sqlite.lock: cannot be written (Read-only file system)"
    )


def test_a_directory_in_which_nobody_may_write(run, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    arguments = copied(run, tmp_path / "out")
    (tmp_path / "out").chmod(0o555)
    try:
        assert datagen("stats", *arguments)[0] == 0
        assert one_line(datagen("build", *arguments), "tfds: cannot be written (Permission denied)")
    finally:
        (tmp_path / "out").chmod(0o755)


@pytest.mark.parametrize("target", ["trl", "chat", "ours", "aloe"])
def test_half_a_character_in_a_file_is_one_line(tmp_path, target):
    source = tmp_path / "a.jsonl"
    good = conversation(2).to_json()
    for n, half in enumerate(("\\ud83d", "\\udc00x", "x\\ud83dx")):
        source.write_text(good.replace('"id": "c0"', f'"id": "c{half}"').replace('"c0"', f'"c{half}"', 1) + "\n")
        found = datagen("convert", source, tmp_path / f"{n}.jsonl", "--from", "ours", "--to", target)
        assert one_line(found, "a.jsonl line 1: ")
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_source_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    found = datagen("convert", tmp_path / "loop", tmp_path / "b.jsonl", "--from", "ours", "--to", "trl")
    assert one_line(found, "loop: cannot be read (Too many levels of symbolic links)")
    assert not (tmp_path / "b.jsonl").exists()
    assert Path(tmp_path / "loop").is_symlink()
