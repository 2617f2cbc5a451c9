"""Whatever happens in a command, a person reads one line of it, and the status says what came of it."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import safetensors
import yaml
from click.testing import CliRunner, Result

from aloe_jax.cli.command import Command, CommandGroup, one_line_errors
from aloe_jax.cli.main import main as aloe
from aloe_jax.errors import AloeError
from aloe_jax.faults import LONGEST, explain, one_line


def failing(error: BaseException, *arguments: str, **variables: str) -> Result:
    @click.command(cls=Command)
    def main() -> None:
        raise error

    return CliRunner().invoke(main, arguments, env=variables)


def raised(call, *arguments) -> BaseException:
    try:
        call(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def loaded(text: str) -> None:
    json.loads(text)


def opened_and_read(file: Path) -> str:
    return file.read_text()


@pytest.fixture
def bytes_file(tmp_path: Path) -> Path:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9")
    return file


FAULTS = {
    "ours": (lambda tmp: AloeError("c.yaml: seeed: unknown"), "c.yaml: seeed: unknown"),
    "ours, over lines": (lambda tmp: AloeError("a\n  b\r\nc"), "a b c"),
    "a full disk": (lambda tmp: OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: No space left"),
    "a full disk, no name": (lambda tmp: OSError(errno.ENOSPC, "No space left on device"), "No space left on device; "),
    "no errno": (lambda tmp: OSError("Failed to open the local cache"), "Failed to open the local cache"),
    "nothing at all": (lambda tmp: OSError(), "OSError"),
    "a descriptor": (lambda tmp: OSError(9, "Bad file descriptor", 7), "file descriptor 7: Bad file descriptor"),
    "bytes": (lambda tmp: OSError(2, "No such file or directory", b"a\xff"), r"a\udcff: No such file"),
    "two names": (lambda tmp: raised(os.rename, tmp / "a", tmp / "b"), "a: No such file or directory"),
    "a name of two lines": (lambda tmp: raised(open, tmp / "a\nError: all is well"), "a Error: all is well: No such"),
    "a name with an escape": (lambda tmp: raised(open, tmp / "\x1b[2Jx"), r"\x1b[2Jx: No such file"),
    "a directory": (lambda tmp: raised(opened_and_read, tmp), "Is a directory"),
    "a NUL": (lambda tmp: raised(open, "a\0b"), "a path holds a NUL character"),
    "memory": (lambda tmp: MemoryError(), "does not fit into the memory of this machine"),
    "nested": (lambda tmp: raised(loaded, "[" * 100_000), "is nested too deeply"),
    "JSON": (lambda tmp: raised(loaded, "{"), "a file cannot be used: Expecting property name"),
    "YAML": (lambda tmp: raised(yaml.safe_load, "a: [\n"), "is not YAML: while parsing"),
    "SQLite": (lambda tmp: sqlite3.OperationalError("database or disk is full"), "an SQLite database cannot be used"),
    "a lone surrogate": (lambda tmp: raised("\udce9".encode), "holds a character that cannot be written"),
    "Rust": (lambda tmp: Exception("No space left on device (os error 28)"), "(os error 28); free some space"),
    "safetensors": (lambda tmp: raised(safetensors.deserialize, b"x" * 64), "a safetensors file cannot be used: "),
    "several": (lambda tmp: ExceptionGroup("of tasks", [ValueError("x"), AloeError("the key is refused")]), "the key"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_what_a_disk_or_a_file_can_do_is_one_line(tmp_path: Path, what: str) -> None:
    make, says = FAULTS[what]
    done = failing(make(tmp_path))
    assert done.exit_code == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and says in line


def test_the_file_that_was_read_is_named_where_the_exception_does_not(bytes_file: Path) -> None:
    assert explain(raised(opened_and_read, bytes_file)) == (
        f"{bytes_file}: is not text in utf-8 (unexpected end of data at byte 3)"
    )


def test_messages_are_of_a_length_that_can_be_read() -> None:
    text = one_line("x" * 10**6)
    assert len(text) < LONGEST and " … " in text


def test_a_defect_is_told_from_a_mistake_and_keeps_its_traceback(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = failing(KeyError("no such thing"))
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 1 and line.startswith("Error: a defect of aloe-jax: KeyError: 'no such thing' (where: ")
    (file,) = tmp_path.iterdir()
    assert str(file) in line and "in main\n    raise error" in file.read_text() and file.stat().st_mode & 0o077 == 0


def test_a_defect_on_a_full_disk(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert "ZeroDivisionError (--debug shows where)" in failing(ZeroDivisionError()).stderr


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("error", [AloeError("the file"), OSError(28, "full"), KeyError("x")], ids=repr)
def test_debug_shows_where(error: Exception, option: bool, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = failing(error, "--debug") if option else failing(error, ALOE_DEBUG="1")
    assert done.exit_code == 1 and "in main\n    raise error" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_ctrl_c_is_a_line_and_its_own_status() -> None:
    done = failing(KeyboardInterrupt())
    assert done.exit_code == 130 and done.stderr == "Interrupted.\n"


def test_groups_have_it_too_at_both_ends() -> None:
    @click.group(cls=CommandGroup)
    def main() -> None: ...

    @main.command()
    def part() -> None:
        raise AloeError("x")

    for arguments in (["part"], ["--debug", "part"], ["part", "--debug"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1 and done.stderr.splitlines()[-1] == "Error: x"
        assert ("Traceback" in done.stderr) == ("--debug" in arguments)


def test_what_click_raises_passes() -> None:
    with pytest.raises(click.UsageError), one_line_errors():
        raise click.UsageError("x")


def every_command(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command below a group."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from every_command(found, *path, name)


def test_every_command_has_debug() -> None:
    found = list(every_command(aloe))
    assert {("train",), ("rate", "page"), ("datagen", "build"), ("demo",)} <= set(found)
    for words in found:
        assert "--debug" in CliRunner().invoke(aloe, [*words, "--help"]).output, words


# ---------------------------------------------------------------- streams

PRINTING = """
import sys, click
from aloe_jax.cli.command import Command
@click.command(cls=Command)
@click.argument("lines", type=int)
def main(lines):
    for number in range(lines):
        click.echo(f"line {number} \u2192 caf\xe9")
main()
"""


def shell(rest: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {rest}', sys.executable, PRINTING],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_it_quietly(lines: int) -> None:
    done = shell(f"{lines} | (exec 0<&-; sleep 0.3)")
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_disk_behind_stdout_is_one_line(lines: int) -> None:
    done = shell(f"{lines} >/dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and "No space left on device" in line


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    done = shell(f"3 {closed}")
    assert done.returncode == 0 and done.stderr == ""


def test_an_encoding_without_the_character_is_no_error() -> None:
    done = shell("1", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and done.stdout.startswith("line 0 \\u2192 caf")


def test_ctrl_c_in_a_process(tmp_path: Path) -> None:
    waiting = PRINTING.replace("click.echo(", "print('x', flush=True), __import__('time').sleep(60), (")
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "x\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "Interrupted.\n"


def test_a_thread_that_fails_is_one_line() -> None:
    threaded = PRINTING.replace(
        "for number", "__import__('threading').Thread(target=lambda: 1 / 0).start()\n    for number"
    )
    done = subprocess.run([sys.executable, "-c", threaded, "1"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "ZeroDivisionError" in done.stderr and len(done.stderr.splitlines()) == 1
