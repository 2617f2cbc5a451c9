"""`aloe report`: one page on benchmark runs, and tables and a figure for a paper."""

from __future__ import annotations

import click

from aloe_jax.cli.command import Command


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--output", default="report.html", show_default=True, help="The page to write.")
@click.option("--png", metavar="FILE", help="Also the AL(k) curves as .png, .pdf or .svg (needs matplotlib).")
@click.option("--latex", metavar="FILE", help="Also the table for a paper (booktabs).")
@click.option("--markdown", metavar="FILE", help="Also the tables for a README.")
@click.option(
    "--human", multiple=True, metavar="FILE", help="Ratings that the human-rating page saved; may be given again."
)
def main(
    runs: tuple[str, ...],
    output: str,
    png: str | None,
    latex: str | None,
    markdown: str | None,
    human: tuple[str, ...],
) -> None:
    """One page on any number of benchmark runs, to read offline, to print or to send.

    RUN_DIR is the output directory of aloe_jax.evaluate: of the benchmark, of --preferences, or of both; NAME=RUN_DIR
    gives it a name of its own. Models of all runs stand in one table, with AL(k) curves, paired differences corrected
    for multiple tests, ratings by turn, breakdowns, agreement of the judges, and every dialogue side by side.

    \b
    Examples:
      python -m aloe_jax.report runs/demo/benchmark
      python -m aloe_jax.report runs/demo/benchmark runs/evaluation/preferences --output both.html
      python -m aloe_jax.report warm=runs/a cool=runs/b --png curves.png --latex table.tex
      python -m aloe_jax.report runs/a --human anna.json --human ben.json
    """
    from aloe_jax.benchmark.number_text import counted
    from aloe_jax.errors import AloeError
    from aloe_jax.report import tables
    from aloe_jax.report.figure import write_figure
    from aloe_jax.report.gathering import gather
    from aloe_jax.report.page import write_page
    from aloe_jax.storage.files import as_path, make_directory, together, write_atomically

    report = gather(runs, human)
    if not report.entries and (png or latex or markdown):
        raise AloeError(f"{runs[0]}: holds no models to draw or to put in a table; give a run of the benchmark")
    with together(as_path(output).parent):
        size = write_page(report, output)
        written = [output]
        for target, text in ((latex, tables.latex), (markdown, tables.markdown)):
            if target is not None:
                make_directory(as_path(target).parent)
                write_atomically(as_path(target), text(report))
                written.append(target)
        if png is not None:
            write_figure(report, png)
            written.append(png)
    counts = [counted(len(report.models), "model"), counted(len(report.personas), "case")]
    click.echo(f"{output}: {counted(len(report.runs), 'run')}, {', '.join(counts)}, {size / 1e6:.1f} MB")
    for target in written[1:]:
        click.echo(target)
