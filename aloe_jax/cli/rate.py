"""`aloe rate`: pages on which people rate replies, and how far the judge agrees with them."""

from __future__ import annotations

import click

from aloe_jax.cli.command import CommandGroup


@click.group(cls=CommandGroup)
def main() -> None:
    """Let people rate replies of benchmark runs, and see how far the judge agrees with them.

    \b
    1. `page` writes HTML files to hand out. They open in any browser, without a network, and show neither which
       model wrote a reply nor how the judge rated it. The key beside them does: keep it.
    2. Raters press 1 to 5, and send back the file that the page lets them download.
    3. `agreement` compares the files with each other and with the judge.

    \b
    Example:
      python -m aloe_jax.rate page runs/eval --items 120 --raters 3 --overlap 0.3 --checks 6 --output rate.html
      python -m aloe_jax.rate agreement ratings-anna.json ratings-ben.json --key rate.key.json
    """


@main.command(short_help="Write pages to rate replies on, and their key.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--items", default=120, show_default=True, type=click.IntRange(1), help="Replies on every page.")
@click.option("--raters", default=1, show_default=True, type=click.IntRange(1), help="Pages to write, one a person.")
@click.option(
    "--overlap",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the replies that all pages have in common; every other is on one page only.",
)
@click.option(
    "--checks",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Replies of known quality mixed in besides, to see who rates with care.",
)
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model's replies; may be repeated.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other replies in another order.")
@click.option(
    "--output", default="rate.html", show_default=True, metavar="FILE", help="The page; with several: NAME-1."
)
def page(
    runs: tuple[str, ...],
    items: int,
    raters: int,
    overlap: float,
    checks: int,
    models: tuple[str, ...],
    seed: int,
    output: str,
) -> None:
    """Draw replies of finished runs and write pages to rate them on, and their key.

    RUN_DIR is the output of `python -m aloe_jax.evaluate`. Replies are drawn evenly over models, over the judge's
    ratings and over turns. Several people may also rate one page; with --raters everybody gets an order of their own.

    \b
    Example:
      python -m aloe_jax.rate page runs/eval --items 120 --seed 7
      python -m aloe_jax.rate page runs/base runs/dpo --model dpo --raters 3 --overlap 0.3 --checks 6
    """
    from aloe_jax.benchmark.rating.pages import write_pages

    pages, key = write_pages(
        runs, output, items=items, raters=raters, overlap=overlap, checks=checks, models=models, seed=seed
    )
    for path in pages:
        click.echo(f"{path}  {items + checks} replies; a rater opens it in a browser and sends a file back")
    click.echo(f"{key}  which model wrote what, and the judge's ratings: keep it from the raters")


@main.command(short_help="Compare ratings with each other and with the judge.")
@click.argument("files", nargs=-1, required=True, metavar="RATINGS.json...")
@click.option("--key", required=True, metavar="FILE", help="The .key.json that was written beside the pages.")
@click.option("--bootstrap", default=2000, show_default=True, type=click.IntRange(1), help="Resamples for intervals.")
@click.option("--seed", default=0, show_default=True, help="Of the resamples.")
@click.option("--output", metavar="FILE", help="JSON of all numbers; by default NAME.agreement.json beside the key.")
def agreement(files: tuple[str, ...], key: str, bootstrap: int, seed: int, output: str | None) -> None:
    """Compare what people rated with each other and with the judge, and say what is missing.

    The last column by model shows a judge that likes a model more than people do. The same files, named in
    `judging.people`, put agreement with people into the run's own report.

    \b
    Example:
      python -m aloe_jax.rate agreement ratings-anna.json ratings-ben.json --key rate.key.json
    """
    from aloe_jax.benchmark.human_ratings import read_ratings
    from aloe_jax.benchmark.rating.analysis import compare
    from aloe_jax.benchmark.rating.key import read_key
    from aloe_jax.benchmark.rating.show import tables
    from aloe_jax.storage.files import as_path, make_directory, write_atomically
    from aloe_jax.terminal import console

    found = compare(read_key(key), {path: read_ratings(path) for path in files}, bootstrap, seed)
    where = as_path(output) if output else as_path(key.removesuffix(".key.json") + ".agreement.json")
    make_directory(where.parent)
    write_atomically(where, found.model_dump_json(indent=1) + "\n")
    console().print(tables(found))
    click.echo(where)
