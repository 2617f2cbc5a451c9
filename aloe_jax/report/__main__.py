"""Write the report on benchmark runs: `python -m aloe_jax.report`."""

from __future__ import annotations

import click

from aloe_jax.command import Command, one_line_errors


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
    with one_line_errors():
        from aloe_jax.errors import AloeError
        from aloe_jax.files import as_path, write_atomically
        from aloe_jax.report import tables
        from aloe_jax.report.figure import write_figure
        from aloe_jax.report.gathering import gather
        from aloe_jax.report.page import write_page
        from aloe_jax.report.writing import counted

        report = gather(runs, human)
        if not report.entries and (png or latex or markdown):
            raise AloeError(f"{runs[0]}: holds no models to draw or to put in a table; give a run of the benchmark")
        size = write_page(report, output)
        told = [counted(len(report.models), "model"), counted(len(report.personas), "case")]
        click.echo(f"{output}: {counted(len(report.runs), 'run')}, {', '.join(told)}, {size / 1e6:.1f} MB")
        if latex is not None:
            write_atomically(as_path(latex), tables.latex(report))
            click.echo(latex)
        if markdown is not None:
            write_atomically(as_path(markdown), tables.markdown(report))
            click.echo(markdown)
        if png is not None:
            write_figure(report, png)
            click.echo(png)


if __name__ == "__main__":
    main()
