import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from aloe_jax.report.__main__ import main
from aloe_jax.report.figure import write_figure
from aloe_jax.report.summary_table import difference, table


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_teaches_and_is_light():
    code = "import sys, aloe_jax.report.__main__; print(*[m for m in ('jax', 'numpy', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    told = run("--help").output
    for option in ("--output", "--png", "--latex", "--markdown", "--human", "python -m aloe_jax.report"):
        assert option in told


def test_everything_at_once(runs, tmp_path):
    page, markdown, latex = (tmp_path / name for name in ("r.html", "t.md", "t.tex"))
    human = ["--human", runs / "anna.json", "--human", runs / "ben.json"]
    found = run(
        f"one={runs}/first", runs / "second", "--output", page, "--markdown", markdown, "--latex", latex, *human
    )
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[0].startswith(f"{page}: 2 runs, 4 models, 7 cases, 0.")
    assert "good (one)" in page.read_text() and "anna and ben" in page.read_text()
    assert markdown.read_text().startswith("| Model") and r"\toprule" in latex.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "t.md", "t.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["{runs}"], "holds neither metrics.json"),
        (["{runs}/first", "--human", "{runs}/none.json"], "none.json: cannot be read"),
        (["{runs}/first", "--png", "curves.gif"], "a figure ends in .png, .pdf, .svg"),
    ],
)
def test_mistakes_are_told_in_one_line(runs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    found = run(*(argument.format(runs=runs) for argument in arguments))
    assert found.exit_code == 1
    assert message in found.output and found.output.splitlines()[-1].startswith("Error: ")


def test_without_matplotlib_a_figure_says_what_to_install(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = run(runs / "first", "--output", tmp_path / "r.html", "--png", tmp_path / "c.png")
    assert found.exit_code == 1 and "pip install 'matplotlib>=3.10'" in found.output
    assert not (tmp_path / "c.png").exists() and (tmp_path / "r.html").exists()


def test_a_figure_has_every_curve_and_says_what_is_simulated(one, tmp_path):
    pytest.importorskip("matplotlib")
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        path = tmp_path / f"c{ending}"
        write_figure(one, path)
        first = path.read_bytes()
        assert first.startswith(start)
        write_figure(one, path)
        assert path.read_bytes() == first
    text = (tmp_path / "c.svg").read_text()
    assert "Simulated: the users, the judges and the reference lines" in text and "good (incomplete)" in text


def test_the_summary_fits_a_terminal(one, undecided, clear, capsys):
    Console(width=80).print(table(one))
    shown = capsys.readouterr().out
    assert "low* *" in shown and "simulated: the users" in shown and "a<b> & $c_1$ → good" in shown
    assert "…\n" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "† incomplete: replies or ratings are missing" in shown and "good †" in shown
    assert "not significant" in difference(undecided.pairs[0])
    assert "not significant" not in difference(clear.pairs[0])
