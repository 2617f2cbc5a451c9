"""What AL does not show stands beside it: replies that assert a fact of somebody else."""

from rich.console import Console

from aloe_jax.demo.summary import alignment
from aloe_jax.report.gathering import gather
from aloe_jax.report.page import render
from aloe_jax.report.summary_table import table
from aloe_jax.report.tables import assertions, latex, markdown
from tests.report import sample


def report_of(root, *shares):
    """A run whose models have these shares of untrue assertions."""
    people = sample.personas(4)
    spoken = [sample.talked(f"m{number}", people, 2.0) for number in range(len(shares))]
    results = sample.results(spoken, provider="openai")
    models = {
        name: model.model_copy(update={"automatic": model.automatic.model_copy(update={"untrue": share})})
        for (name, model), share in zip(results.models.items(), shares, strict=True)
    }
    sample.write_results(root, results.model_copy(update={"models": models}))
    return gather([root])


def printed(report, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as found:
        console.print(table(report))
    return found.get()


def test_beside_al_in_every_table(tmp_path):
    report = report_of(tmp_path, 0.125, None)
    assert assertions(report) == {"m0": "12.5%", "m1": "\N{EN DASH}"}
    head, _, first, second = markdown(report).splitlines()[:4]
    assert "| Untrue assertions | Coverage |" in head
    assert first.split("|")[-4].strip() == "12.5%" and second.split("|")[-4].strip() == "\N{EN DASH}"
    assert "- Untrue assertions: replies that state a fact of somebody else." in markdown(report)
    tex = latex(report)
    assert r"& Untrue & Coverage" in tex and r"& 12.5\% & 100\%" in tex and r"\begin{tabular}{lrrrrrrr}" in tex
    summary = render(report).split('<table class="summary">')[1].split("</table>")[0]
    assert "Untrue assertions</th>" in summary and "<td>12.5%</td>" in summary
    assert "Cut / empty / repeated</th>" in summary and "<td>\N{EN DASH} / 0% / 0%</td>" in summary
    shown = printed(report)
    assert "untrue" in shown and "12.5%" in shown and "which AL does not show" in " ".join(shown.split())
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())


def test_not_where_it_cannot_be_known(tmp_path):
    report = report_of(tmp_path, None, None)
    assert assertions(report) == {}
    assert "ntrue" not in markdown(report) + latex(report) + printed(report)


def test_in_the_summary_of_the_demo():
    estimate = {"value": 2.0, "low": 1.5, "high": 2.5}
    values = {"average": estimate, "ir": estimate, "automatic": {"untrue": 0.154}}
    assert alignment(values).endswith("   untrue 15.4%")
    assert "untrue" not in alignment(values | {"automatic": {"untrue": None}})
