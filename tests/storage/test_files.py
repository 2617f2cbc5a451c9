"""Files that are written whole or not at all, on a disk; what killed processes leave does not stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.storage.files import LEFTOVER_SECONDS, PARTIAL, write_atomically
from aloe_jax.storage.scratch import PREFIX, scratch

WRITING = """
import sys
from pathlib import Path
from aloe_jax.storage.files import write_atomically
print("x", flush=True)
while True:
    for letter in sys.argv[2]:
        write_atomically(Path(sys.argv[1]), letter * 3_000_000)
"""


def writer(file: Path, letters: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITING, str(file), letters], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "x\n"
    return process


def test_several_writers_and_kills_never_leave_a_mixture(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    for _ in range(5):
        processes = [writer(file, "ab"), writer(file, "cd")]
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            if file.exists():
                text = file.read_text()
                assert len(text) == 3_000_000 and len(set(text)) == 1
        for process in processes:
            process.kill()
            process.wait(30)
    left = [one for one in tmp_path.iterdir() if one.name.endswith(PARTIAL)]
    for one in left:
        os.utime(one, (0, time.time() - LEFTOVER_SECONDS - 1))
    write_atomically(file, "done")
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "done"


def test_what_somebody_is_just_writing_is_left(tmp_path: Path) -> None:
    (tmp_path / f".aloe-00{PARTIAL}").write_text("")
    write_atomically(tmp_path / "a", "1")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_only_its_owner_reads_stays_so(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text("x")
    file.chmod(0o600)
    write_atomically(file, "y")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_device_and_a_pipe_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    device = Path(os.ttyname(theirs))  # a file of no content, as /dev/null is one
    write_atomically(device, "hello")
    assert device.is_char_device() and os.read(ours, 100) == b"hello"
    (tmp_path / "link").symlink_to(device)  # as /dev/stdout is one
    write_atomically(tmp_path / "link", "again")
    assert device.is_char_device() and os.read(ours, 100) == b"again" and (tmp_path / "link").is_symlink()
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "through")
    assert pipe.is_fifo() and os.read(reader, 100) == b"through"
    for descriptor in (ours, theirs, reader):
        os.close(descriptor)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("before")
    (tmp_path / "a").symlink_to("there/a")
    write_atomically(tmp_path / "a", "after")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "there" / "a").read_text() == "after"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none/a", FileNotFoundError), ("file/a", NotADirectoryError), ("directory", IsADirectoryError),
        ("n" * 256, OSError),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_leave_nothing(tmp_path: Path, name: str, error: type[OSError]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    with pytest.raises(error) as failed:
        write_atomically(tmp_path / name, "x")
    assert failed.value.filename == str(tmp_path / name)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["directory", "file"]


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(AloeError, match=r"a: cannot be written: its text holds half a character \('\\ud83d'\)"):
        write_atomically(tmp_path / "a", "x\ud83d")
    assert (tmp_path / "a").read_text() == "before"


SCRATCH = """
import time
from aloe_jax.storage.scratch import scratch
with scratch() as place:
    (place / "large").write_text("x")
    print(place, flush=True)
    time.sleep(60)
"""


def test_scratch_directories_of_killed_processes_go_and_those_in_use_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "aloe-scratch-not-ours").mkdir()
    both = [subprocess.Popen([sys.executable, "-c", SCRATCH], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    places = [Path(process.stdout.readline().strip()) for process in both if process.stdout]
    both[0].send_signal(signal.SIGKILL)
    both[0].wait(30)
    with scratch() as mine:
        assert not places[0].exists() and (places[1] / "large").exists() and list(mine.iterdir()) == []
        assert (tmp_path / "aloe-scratch-not-ours").is_dir()  # nothing says that it is one of these
    both[1].kill()
    both[1].wait(30)
    with scratch():
        pass
    assert [one.name for one in tmp_path.glob(f"{PREFIX}*")] == ["aloe-scratch-not-ours"]
