"""Names that are markup somewhere are printed as they are: on a terminal, on a page, in Markdown and in LaTeX."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from aloe_jax import rate
from aloe_jax.report.__main__ import main
from aloe_jax.report.gathering import gather
from aloe_jax.report.summary_table import table
from tests.report import sample

NAMES = (
    "[bold]x[/]",
    "[/red]",
    ":car: [link=http://x]y",
    "<b>&amp;</b>",
    "\u202etxt",
    "a|b `c` $d$ \\e{f}",
)


@pytest.fixture(scope="module", params=[NAMES[:2], NAMES[2:4], NAMES[4:]], ids=["rich", "terminal", "papers"])
def named(request, tmp_path_factory) -> tuple[tuple[str, ...], Path]:
    people = sample.personas(6)
    spoken = [sample.talked(name, people, 2.0 + number) for number, name in enumerate(request.param)]
    root = tmp_path_factory.mktemp("runs") / "[bold]run[/red]"
    sample.write_results(root, sample.results(spoken, provider="openai"))
    return request.param, root


def printed(renderable) -> str:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as found:
        console.print(renderable)
    return found.get()


def test_on_a_terminal(named) -> None:
    names, root = named
    text = printed(table(gather([root])))
    for name in names:
        assert name.replace("\u202e", r"\u202e") in text
    assert "\u202e" not in text


def test_in_files(named, tmp_path: Path) -> None:
    names, root = named
    outputs = [f"--{kind}={tmp_path}/[b]{kind}" for kind in ("output", "latex", "markdown")]
    done = CliRunner().invoke(main, [str(root), *outputs])
    assert done.exit_code == 0 and f"{tmp_path}/[b]latex" in done.output, done.output
    page = (tmp_path / "[b]output").read_text()
    assert "<b>&amp;</b>" not in page.partition("<main")[2] and "[/red]" not in done.stderr
    latex = (tmp_path / "[b]latex").read_text()
    assert "\\e{f}" not in latex and "a|b `c` $d$" not in (tmp_path / "[b]markdown").read_text()
    if NAMES[-1] in names:
        assert r"a\textbar{}b `c` \$d\$ \textbackslash{}e\{f\}" in latex


def test_ratings_and_their_agreement(named, tmp_path: Path) -> None:
    names, root = named
    page = tmp_path / "[b]rate.html"
    done = CliRunner().invoke(rate.main, ["page", str(root), "--items", "6", "--output", str(page)])
    assert done.exit_code == 0 and str(page) in done.output, done.output
    key = page.with_suffix(".key.json")
    shown = json.loads(key.read_text())["pages"][0]
    files = []
    for number, rater in enumerate(names):
        ratings = [{"item": item, "rating": 1 + (n + number) % 5} for n, item in enumerate(shown["items"])]
        files.append(tmp_path / f"{number}.json")
        form = {"format": "aloe-human-ratings", "version": 1, "rater": rater, "page": shown["page"], "ratings": ratings}
        files[-1].write_text(json.dumps(form))
    done = CliRunner().invoke(rate.main, ["agreement", *map(str, files), "--key", str(key), "--bootstrap", "20"])
    assert done.exit_code == 0, done.output
    assert "\x1b[2J" not in done.output and (names[0] != NAMES[0] or "[bold]x[/]" in done.output)


WRITING = """
import sys
from pathlib import Path
from aloe_jax.storage.files import together, write_atomically
folder = Path(sys.argv[1])
for number in range(150):
    with together(folder):
        for name in ("page", "key"):
            write_atomically(folder / name, f"{sys.argv[2]} {number}")
"""


def test_files_that_belong_together_do_not_mix(tmp_path: Path) -> None:
    """Whoever is last has written both, and nothing is left beside them."""
    from aloe_jax.storage.files import together

    both = [subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path), name]) for name in "ab"]
    seen = set()
    while any(process.poll() is None for process in both):
        with together(tmp_path):
            files = [tmp_path / name for name in ("page", "key")]
            if all(file.exists() for file in files):
                page, key = (file.read_text() for file in files)
                assert page == key
                seen.add(page)
    assert all(process.wait() == 0 for process in both) and len(seen) > 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key", "page"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "NaN", "another model", "settings"])
def test_damaged_results_are_one_line_that_names_the_file(tmp_path: Path, damage: str) -> None:
    people = sample.personas(2)
    sample.write_results(tmp_path / "run", sample.results([sample.talked("m", people, 2.0)], provider="openai"))
    metrics, transcripts = tmp_path / "run" / "metrics.json", tmp_path / "run" / "transcripts.jsonl"
    text = metrics.read_text()
    at = transcripts if damage in ("garbage", "another model") else metrics
    if damage == "cut":
        metrics.write_text(text[: len(text) // 2])
    elif damage == "garbage":
        transcripts.write_bytes(b"\xff\xfe\0garbage\n")
    elif damage == "NaN":
        metrics.write_text(text.replace('"coverage": 1.0', '"coverage": NaN', 1))
    elif damage == "another model":
        transcripts.write_text(transcripts.read_text().replace('"model":"m"', '"model":"[/red]"'))
    else:
        metrics.write_text(text.replace('"permutations": ', '"permutations": -', 1))
    for command, arguments in ((main, []), (rate.main, ["page"])):
        done = CliRunner().invoke(command, [*arguments, str(tmp_path / "run"), "--output", str(tmp_path / "x.html")])
        if damage in ("settings", "NaN") and arguments:
            continue  # of no account there
        assert done.exit_code == 1 and not (tmp_path / "x.html").exists(), done.output
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {at}") and "defect" not in line
