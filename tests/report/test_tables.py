import re

import pytest

from aloe_jax.benchmark.number_text import number, p_equation, p_value, percent, signed, spread
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.benchmark.scoring import Checks
from aloe_jax.report.gathering import gather
from aloe_jax.report.page import render
from aloe_jax.report.summary_table import table
from aloe_jax.report.tables import latex, markdown
from tests.report import sample
from tests.report.test_page import words


def row(text, name):
    return next(line for line in text.splitlines() if name in line)


def test_bold_is_the_best_where_the_corrected_test_says_so(clear, undecided):
    text = markdown(clear)
    assert re.search(r"\*\*4\.\d\d\*\* (±|\+)", row(text, "| strong "))
    table, differences = text.split("\n\n")[:2]
    assert table.count("**") == 2  # that cell alone: not IR, nor N-IR and R², which nobody tested
    assert "**" in row(differences, "weak → strong")
    assert "**" not in markdown(undecided).split("- Intervals")[0]
    assert latex(clear).count(r"\mathbf") == 1 and r"\mathbf" in row(latex(clear), "strong")
    assert r"\mathbf" not in latex(undecided)


def test_an_interval_is_plus_minus_only_where_it_is_even():
    def around(low, high):
        return spread(StoredEstimate(value=3.0, low=low, high=high), 2)

    assert around(2.9, 3.1) == ("0.10", "0.10")
    assert around(2.8, 3.1) == ("0.20", "0.10")
    assert around(None, None) is None
    # Of what is printed: 3.004 and 3.096 are shown as 3.00 and 3.10.
    assert spread(StoredEstimate(value=3.004, low=2.9, high=3.096), 2) == ("0.10", "0.10")


def test_markdown_keeps_its_columns_whatever_names_hold(one):
    head, rule, *rows = markdown(one).split("\n\n")[0].splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)]
    assert len(set(cells)) == 1 and len({len(line) for line in (head, rule, *rows)}) == 1
    assert r"a&lt;b&gt; &amp; \$c\_1\$" in rows[1]


def test_latex_escapes_and_balances(one, both):
    text = latex(one)
    assert r"a\textless{}b\textgreater{} \& \$c\_1\$" in text
    for report in (one, both):
        body = latex(report)
        assert len(re.findall(r"(?<!\\)\{", body)) == len(re.findall(r"(?<!\\)\}", body))
        opened = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
            assert kind == "begin" or opened.pop() == name
            opened += [name] * (kind == "begin")
        assert opened == []
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", body)[1]
        rows = re.findall(r"^(?!%).* \\\\$", body, re.M)
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(columns)}
        assert body.isascii()


def test_what_has_to_be_said_goes_with_the_numbers(one, both, clear):
    for text in (markdown(one), latex(one)):
        assert "Simulated by a script: the users, the judges and the reference lines" in text
        assert "Incomplete" in text and "Reference lines, not under test: low" in text
    assert "\N{DAGGER}" in row(markdown(one), "| good") and r"\textdagger" in row(latex(one), "good")
    assert "Simulated" not in markdown(clear) and "Incomplete" not in latex(clear)
    assert "| Run " in markdown(both) and "| Run " not in markdown(one)


def test_undefined_numbers_are_dashes(one):
    model = one.entries[0]
    flat = model.numbers.model_copy(update={"n_ir": StoredEstimate(value=None, low=None, high=None)})
    entries = (model.__class__(**{**model.__dict__, "numbers": flat}), *one.entries[1:])
    report = one.__class__(one.runs, entries, one.pairs)
    assert " \N{EN DASH} |" in row(markdown(report), "low")
    assert " & -- & " in row(latex(report), "low")


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (number, -0.001, "0.00"), (number, -1.5, "\N{MINUS SIGN}1.50"), (number, None, "\N{EN DASH}"),
        (signed, 0.001, "0.00"), (signed, -0.001, "0.00"), (signed, 0.5, "+0.50"), (signed, None, "\N{EN DASH}"),
        (percent, 1.0, "100%"), (percent, 0.99999, "99.9%"), (percent, 0.00001, "0.1%"), (percent, 0.0, "0%"),
        (p_value, 0.0002, "< 0.001"), (p_value, 0.0123, "0.012"), (p_value, 1.0, "1"), (p_value, None, "\N{EN DASH}"),
        (p_equation, 0.0002, "p < 0.001"), (p_equation, 0.0123, "p = 0.012"), (p_equation, 1.0, "p = 1"),
        (p_equation, None, "p \N{EN DASH}"),
    ],
)  # fmt: skip
def test_numbers_as_written(form, value, text):
    assert form(value) == text


def compared_with_a_reference(tmp_path, name="dpo"):
    """A run with one model under test, whose dialogues judges read beside those of a reference line."""
    people = sample.strangers(6)
    (stored,) = sample.hostile_results().side_by_side
    side = stored.model_copy(update={"first": "generic*", "second": name, "p_holm": 0.3})
    spoken = [sample.talked("generic*", people, 1.2), sample.talked(name, people, 3.0)]
    found = sample.results(spoken, provider="openai", checks=Checks([], [side]))
    sample.write_results(tmp_path, found)
    return gather([tmp_path])


def test_dialogues_side_by_side_are_shown_where_no_two_models_are_under_test(tmp_path):
    report = compared_with_a_reference(tmp_path)
    assert not report.pairs and len(report.sides) == 1
    page = render(report)
    said = words(page)
    assert 'href="#differences"' in page and "generic* → dpo" in said and "75.0%" in said
    assert "The second model minus the first" not in said and "table above" not in said
    assert re.search(
        r"generic\\\* → dpo +\| +4 \| +1 \| +1 \| 75\.0% \(40\.0% to 95\.0%\) \| 0\.300 \|", markdown(report)
    )
    assert "Side by side: a tie counts half; p by a sign test" in markdown(report)
    line = "ide by side generic* → dpo: win rate of the second 75.0% (40.0% to 95.0%), p = 0.300, not significant"
    assert line in table(report).caption.plain
    tex = line.replace("→", r"$\rightarrow$").replace("%", r"\%")
    assert tex in latex(report)
