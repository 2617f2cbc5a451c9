"""Writes rating pages: HTML files, for use without a network, on which a person rates replies blind.

The data of a page, which its scripts read, is one JSON object:

    {"page": digest of the items in their order, "simulated": "" or a sentence to be shown,
     "criteria": [[name, text], …], "scale": [what 1 says, …, what 5 says],
     "personas": [{"profile": [sentence, …], "personality": [sentence, …]}, …],
     "items": [{"item": …, "persona": number, "path": [text, …], "reply": text}, …]}

Nothing in it comes from the model's name or from a rating: items are named by a digest of what is read, their order
and that of the personas is drawn.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from aloe_jax.benchmark.dialogue import digest
from aloe_jax.benchmark.human_ratings import item_id
from aloe_jax.benchmark.rating import key
from aloe_jax.benchmark.rating.sample import RatedReply, candidates, draw, name_runs
from aloe_jax.benchmark.results import load_results
from aloe_jax.errors import AloeError
from aloe_jax.offline_page import as_script_data, fill, read_assets, read_text
from aloe_jax.speech import sentences
from aloe_jax.storage.files import together, write_atomically

_PACKAGE = "aloe_jax.benchmark"
_SCRIPTS = ("message", "state", "files", "view", "app")
_CRITERION = re.compile(r"^[1-9]\. ([^:\n]+): ((?:.+\n)(?: +.+\n)*)", re.MULTILINE)
_LEVEL = re.compile(r"^([1-5]): (.+)$", re.MULTILINE)
PEOPLE = 6  # that replies of known quality are taken from


def write_pages(
    directories: Sequence[str | Path],
    output: str | Path,
    *,
    items: int = 120,
    raters: int = 1,
    overlap: float = 1.0,
    checks: int = 0,
    models: Sequence[str] = (),
    seed: int = 0,
) -> tuple[list[Path], Path]:
    """Write one page, or one for each of `raters` (NAME-1.html, …), and NAME.key.json; returns pages and key.

    `items` replies on every page and, besides them, `checks` of known quality. The same arguments on the same runs
    write the same bytes. Raises AloeError for runs that cannot be read, for too few replies, and where there is a
    key of other pages already: people may be at work on those.
    """
    output = Path(output)
    if output.suffix not in (".html", ".htm"):
        raise AloeError(f"--output {output}: a page is opened in a browser; give it a name that ends in .html")
    runs = {name: load_results(path) for name, path in name_runs(directories).items()}
    simulated = sorted({part for run in runs.values() for part in run.simulated})
    offered = candidates(runs, models)
    drawn = draw(offered, raters, items, overlap, seed)
    known = _checks("the users" in simulated, checks)
    asked, notice = criteria(), _simulation_notice(simulated)
    files = [output] if raters == 1 else [output.with_stem(f"{output.stem}-{n}") for n in range(1, raters + 1)]
    pages, texts = [], []
    template, assets = read_text(_PACKAGE, "rating/page.html"), read_assets(_PACKAGE, "rating", _SCRIPTS, ["style"])
    for number, (file, part) in enumerate(zip(files, drawn.pages, strict=True)):
        shown = _mixed([*part, *(one for one, _ in known)], f"{seed} {number}")
        page = digest([one.item for one in shown])
        pages.append(key.Page(file=file.name, page=page, items=[one.item for one in shown]))
        data = _payload(page, shown, notice, list(asked.asked), list(asked.scale))
        texts.append(fill(template, assets, as_script_data(data)))
    found = key.Key(
        seed=seed,
        simulated=simulated,
        pages=pages,
        items={
            one.item: key.Item(
                case=digest(one.persona.model_dump()), weight=drawn.weights[one.item], places=list(one.places)
            )
            for one in offered
            if one.item in drawn.weights
        },
        checks={one.item: check for one, check in known},
    )
    where = output.with_suffix(".key.json")
    with together(output.parent):  # pages beside the key of other pages could not be read any more
        if where.exists() and [one.page for one in key.read_key(where).pages] != [one.page for one in pages]:
            raise AloeError(
                f"{where}: is the key of other pages, whose ratings nothing else explains; give another --output, or "
                "delete it"
            )
        write_atomically(where, json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
        for file, text in zip(files, texts, strict=True):
            write_atomically(file, text)
    return files, where


# ---------------------------------------------------------------- what is shown


def _checks(scripted: bool, count: int) -> list[tuple[RatedReply, key.Check]]:
    """Replies of known quality, a good one and a bad one by turns, those of a pair of two personas.

    Raises AloeError where more are asked for than there are.
    """
    from aloe_jax.benchmark.calibration import QUALITY, known_replies

    if count > 2 * PEOPLE:
        raise AloeError(f"--checks {count}: there are {2 * PEOPLE} replies of known quality to mix in; ask for fewer")
    known = known_replies(scripted, PEOPLE) if count else []
    good = max(QUALITY, key=QUALITY.__getitem__)
    bad = [kind for kind, quality in QUALITY.items() if quality == min(QUALITY.values())]
    found = []
    for number in range(count):
        pair, second = divmod(number, 2)
        one = known[(pair + PEOPLE // 2 * second) % PEOPLE]
        kind = bad[pair % len(bad)] if second else good
        reply = one.replies[kind]
        shown = RatedReply(item_id(one.persona, one.path, reply), one.persona, one.path, reply)
        found.append((shown, key.Check(kind=kind, quality=QUALITY[kind])))
    return found


def _mixed(items: Sequence[RatedReply], seed: str) -> list[RatedReply]:
    """In an order of the page's own, which says nothing of the order in which they were drawn."""
    ordered = sorted(items, key=lambda one: one.item)
    return random.Random(f"order of a rating page {seed}").sample(ordered, len(ordered))


def _simulation_notice(simulated: Sequence[str]) -> str:
    """What a rater has to know of it; which replies are whose is not said."""
    people = "the users" in simulated
    replies = any(part == "the reference lines" or part.startswith("the model") for part in simulated)
    if not people and not replies:
        return ""
    played = "the people in these conversations" if people else ""
    some = "some of the replies" if replies else ""
    return f"Simulated: {' and '.join(filter(None, (played, some)))} come from a script."


def _payload(
    page: str, shown: Sequence[RatedReply], simulated: str, asked: Sequence[tuple[str, str]], scale: Sequence[str]
) -> dict[str, object]:
    personas: dict[tuple[str, str], int] = {}
    items = []
    for one in shown:
        number = personas.setdefault((one.persona.profile, one.persona.personality), len(personas))
        path = [message["content"] for message in one.path]
        items.append({"item": one.item, "persona": number, "path": path, "reply": one.reply})
    people = [{"profile": sentences(profile), "personality": sentences(traits)} for profile, traits in personas]
    return {
        "page": page,
        "simulated": simulated,
        "criteria": asked,
        "scale": scale,
        "personas": people,
        "items": items,
    }


@dataclass(frozen=True)
class Criteria:
    """`asked`: name and description of each criterion; `scale`: what a rating of 1, 2, 3, 4, 5 says."""

    asked: tuple[tuple[str, str], ...]
    scale: tuple[str, ...]


def criteria() -> Criteria:
    """What people are asked is what the judge is asked: criteria and scale as prompts/judge.md states them.

    Raises AloeError where that has no numbered criteria or no scale of five.
    """
    text = resources.files("aloe_jax").joinpath("prompts/judge.md").read_text(encoding="utf-8")
    asked = tuple((name.strip(), " ".join(words.split())) for name, words in _CRITERION.findall(text))
    levels = {int(level): words.strip() for level, words in _LEVEL.findall(text)}
    if not asked or sorted(levels) != [1, 2, 3, 4, 5]:
        raise AloeError(
            "prompts/judge.md: rating pages take criteria (`1. Name: what it means`) and a scale (`5: what it says`, "
            "down to 1) from it; write them so"
        )
    return Criteria(asked, tuple(levels[level] for level in range(1, 6)))
