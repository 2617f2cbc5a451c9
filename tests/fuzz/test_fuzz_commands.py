"""Command lines, and run directories that are damaged: status 0, 1 or 2 and at most one line of error."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from aloe_jax.cli import chat, evaluate, export, plan, rate, report, tokenizer, train
from aloe_jax.demo import run as demo
from aloe_jax.faults import one_line
from datagen.cli import group as datagen
from tests.fuzz.harness import fuzz
from tests.report import sample

pytestmark = pytest.mark.soak

NAMES = ("[bold]x[/]", "[/red]", "[", "a]b", ":car:", "<b>&amp;</b>", "</script>", "\x1b[2J", "a\nb", "\u202etxt",
         "$x_1^2$", "\\input{x}", "| a | b |", "ü" * 80, "%s{0}", "-", " ", "\ud83d", "\0")  # fmt: skip
names = st.sampled_from(NAMES) | st.text(max_size=12)
WORDS = (
    "nowhere", "file", "dir", "dir/none", ".", "gs://", "gs://B [x]/y", "s3://b/x", "a=b", "seed=-1", "output=x",
    "a.b.c=[",
    "model.path={", "=", "a=", "config.yaml",
)  # fmt: skip
COMMANDS: dict[str, click.Command] = {
    "train": train.main, "evaluate": evaluate.main, "export": export.main, "plan": plan.main, "chat": chat.main,
    "report": report.main, "rate": rate.main, "demo": demo.main, "tokenizer": tokenizer.main, "datagen": datagen.main,
}  # fmt: skip


def checked(command: click.Command, arguments: list[str]) -> str:
    """Run it in this process. Fails where its end is not one that a person understands."""
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code in (0, 1, 2), (arguments, done.exit_code, done.output[-500:])
    assert "Traceback" not in done.output and "a defect of aloe-jax" not in done.output, (arguments, done.output[-800:])
    if done.exit_code == 2:  # called wrongly: click's own three lines
        return ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (done.exit_code == 1), (arguments, done.stderr[-800:])
    if done.exit_code == 1:
        assert done.stderr.splitlines()[-1] == errors[0] and len(errors[0]) < 2000, done.stderr[-800:]
        assert one_line(errors[0]) == errors[0], errors[0]
    return done.output


# ---------------------------------------------------------------- command lines


def _options(command: click.Command) -> list[str]:
    return [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option != "--debug"
    ]


def _lines(name: str) -> st.SearchStrategy[tuple[str, list[str]]]:
    """A command with options of its own and of none, values that may be anything, and files that are not there."""
    command = COMMANDS[name]
    parts = {None: command}
    if isinstance(command, click.Group):
        parts |= dict(command.commands)
    numbers = st.integers().map(str) | st.floats().map(str)
    value = (names | numbers | st.sampled_from(WORDS)).filter(lambda text: text[:1] != "/" and ".." not in text)

    def arguments(part: str | None) -> st.SearchStrategy[list[str]]:
        options = st.sampled_from([*_options(parts[part]), "--config", "--debug-not", "-x", "--"])
        word = st.tuples(options, value).map(list) | options.map(lambda one: [one]) | value.map(lambda one: [one])
        return st.lists(word, max_size=6).map(
            lambda words: [*([part] if part else []), *(w for ws in words for w in ws)]
        )

    return st.sampled_from(list(parts)).flatmap(arguments).map(lambda found: (name, found))


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What is given cannot be what exists, or the machine would be put to work.
    monkeypatch.setattr(demo, "CONFIGS", tmp_path / "none")
    (tmp_path / "file").write_text("x: [")
    (tmp_path / "dir").mkdir()
    for name in ("chat", "export", "tokenizer"):  # heavy imports are not what is measured
        where = [
            "--data" if name == "tokenizer" else "--checkpoint",
            "dir",
            *([] if name == "chat" else ["--output", "x"]),
        ]
        checked(COMMANDS[name], where)
    fuzz(st.sampled_from([*COMMANDS]).flatmap(_lines), lambda line: checked(COMMANDS[line[0]], line[1]))


# ---------------------------------------------------------------- run directories


def _damaged(data: bytes, draw: random.Random) -> bytes:
    """Cut, flipped, doubled, emptied, or JSON with another value somewhere."""
    kind = draw.randrange(7)
    if kind == 0:
        return data[: draw.randrange(len(data) + 1)]
    if kind == 1:
        at = draw.randrange(len(data))
        return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        lines = data.splitlines(keepends=True)
        draw.shuffle(lines)
        return b"".join(lines[: draw.randrange(1, len(lines) + 1)])
    if kind == 3:
        return draw.choice(
            [b"", b"\0" * 64, b"\xff\xfe", b"[" * 50_000, b"null", b"{}", b"[]", b'"x"', b"1e999", b"\n\n"]
        )
    lines = data.splitlines(keepends=True)
    number = draw.randrange(len(lines))
    whole = data.lstrip().startswith(b"{\n")
    try:
        value = json.loads(data if whole else lines[number])
    except ValueError:
        return data + data
    _change(value, draw)
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    return text if whole else b"".join([*lines[:number], text + b"\n", *lines[number + 1 :]])


VALUES: tuple[Any, ...] = (
    *NAMES,
    None,
    True,
    -1,
    0,
    6,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"a": 1},
    "",
)


def _change(value: Any, draw: random.Random) -> None:
    """Put something else at one place of a JSON value."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.85:
            value = value[key]
            continue
        if isinstance(value, dict) and draw.random() < 0.3:
            if draw.random() < 0.5:
                del value[key]
            else:
                value[draw.choice(NAMES)] = value.pop(key)
        else:
            value[key] = draw.choice(VALUES)
        return


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with names that are markup, with preferences, ratings of people, pages and their key."""
    root = tmp_path_factory.mktemp("run")
    people = sample.personas(4)
    spoken = [sample.talked("[bold]a[/]", people, 2.0, turns=2), sample.talked("[/red]", people, 3.0, turns=2)]
    found = sample.results(spoken, provider="openai", turns=2)
    sample.write_results(root, found)
    sample.write_preferences(root)
    done = CliRunner().invoke(rate.main, ["page", str(root), "--items", "4", "--output", str(root / "rate.html")])
    assert done.exit_code == 0, done.output
    key = json.loads((root / "rate.key.json").read_text())
    ratings = [{"item": item, "rating": 1 + n % 5} for n, item in enumerate(key["pages"][0]["items"])]
    form = {"format": "aloe-human-ratings", "version": 1, "page": key["pages"][0]["page"], "ratings": ratings}
    for rater in ("anna", "[/b]"):
        (root / f"ratings-{rater.strip('[/]')}.json").write_text(json.dumps({**form, "rater": rater}))
    return root


FILES = ("metrics.json", "transcripts.jsonl", "preferences.json", "rate.key.json", "ratings-anna.json")


def test_damaged_run_directories(run: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "[bold]copy[/]", tmp_path / "out"
    shutil.copytree(run, copy)
    people = [str(copy / "ratings-anna.json"), str(copy / "ratings-b.json")]
    lines = (
        (report.main, [str(copy), "--output", f"{out}/r.html", "--latex", f"{out}/t.tex", "--markdown", f"{out}/t.md"]),
        (report.main, [str(copy), "--output", f"{out}/r.html", "--human", people[0], "--human", people[1]]),
        (rate.main, ["page", str(copy), "--items", "3", "--checks", "1", "--output", f"{out}/rate.html"]),
        (rate.main, ["agreement", *people, "--key", str(copy / "rate.key.json"), "--bootstrap", "20", "--output",
                     f"{out}/a.json"]),
    )  # fmt: skip

    def check(seed: int) -> None:
        draw = random.Random(seed)
        name = draw.choice(FILES)
        data = (run / name).read_bytes()
        damaged = _damaged(data, draw)
        (copy / name).write_bytes(damaged)
        command, arguments = lines[draw.randrange(len(lines))]
        try:
            shown = checked(command, arguments)
            assert "\x1b[2J" not in shown
            for page in out.glob("*.html"):
                text = page.read_text()
                assert "NaN" not in text.partition('type="application/json"')[2].partition("</script>")[0]
        finally:
            (copy / name).write_bytes(data)
            shutil.rmtree(out, ignore_errors=True)

    fuzz(st.integers(0, 2**62), check)
