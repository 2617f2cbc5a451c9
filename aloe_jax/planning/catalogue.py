"""Every model by name, of both backends: how large it is and what can be done with it.

Asking all of MaxText's takes minutes, so the answers for the one supported version are stored in catalogue.json.
`python -m aloe_jax.planning.catalogue [NAME ...]` asks again (all, or these): each model is built of shapes alone, and
what refuses it in a run refuses it then, in the same words.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aloe_jax import terminal
from aloe_jax.errors import AloeError
from aloe_jax.models.maxtext import families as theirs
from aloe_jax.models.native import families as own
from aloe_jax.planning.architectures import ARCHITECTURES, published
from aloe_jax.storage.files import write_atomically

NATIVE, MAXTEXT = "native", "maxtext"  # backends
ABILITIES = {  # of a model, as the columns of the table
    "tree": "trees",  # conversation trees in rows
    "paths": "paths",  # every path of a tree by itself
    "huggingface_in": "HF in",
    "huggingface_out": "HF out",
    "sampling": "draws",
    "plan": "plan",
}
ALL = "all"  # of ABILITIES, in catalogue.json
KEPT = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Named:
    """One model that a config can name."""

    backend: str
    name: str
    kind: str | None  # model_type in a config.json; else MaxText's kind of layers
    parameters: int | None = None
    active: int | None = None  # of them, those that one token goes through
    refused: dict[str, str] = field(default_factory=dict)  # why, by those of ABILITIES that it lacks

    def as_json(self) -> dict[str, object]:
        """Everything, with what is supported as a truth value each."""
        return asdict(self) | {"supported": {ability: ability not in self.refused for ability in ABILITIES}}


def models() -> list[Named]:
    """All of both backends: our decoder's by the sizes that are known, MaxText's by its own names."""
    found = []
    for name in ARCHITECTURES:
        known = published(name)
        assert known is not None
        count = known[1].parameter_count()
        found.append(Named(NATIVE, name, known[1].family, count, count))
    for values in json.loads(KEPT.read_text())["models"]:
        if ALL in values["refused"]:
            values["refused"] = dict.fromkeys(ABILITIES, values["refused"][ALL])
        found.append(Named(MAXTEXT, **values))
    return found


def families() -> list[tuple[str, str, list[str]]]:
    """(model_type, title, backends) of the kinds of Hugging Face directories that are read and written."""
    return [
        (
            kind,
            (own.FAMILIES.get(kind) or theirs.FAMILIES[kind]).title,
            [name for name, table in ((NATIVE, own.FAMILIES), (MAXTEXT, theirs.FAMILIES)) if kind in table],
        )
        for kind in dict.fromkeys([*own.FAMILIES, *theirs.FAMILIES])
    ]


# ---------------------------------------------------------------- asking MaxText's models


def ask(name: str) -> Named:
    """What becomes of one of MaxText's models in a run, found out by building it of shapes."""
    from aloe_jax.models.maxtext.decoder import MaxTextSpec
    from aloe_jax.models.settings import ModelSettings
    from aloe_jax.models.spec import TokenizerIds

    kind = None
    try:
        spec = MaxTextSpec.from_scratch(ModelSettings(backend="maxtext", name=name), TokenizerIds())
        kind = spec.family or str(spec.resolved.decoder_block.value)
        active = spec.active_count()
    except AloeError as error:
        return Named(MAXTEXT, name, kind, refused=dict.fromkeys(ABILITIES, _short(str(error), name)))
    refused = {}
    try:
        _ = spec.title
    except AloeError as error:
        refused = dict.fromkeys(("huggingface_in", "huggingface_out"), _short(str(error), name))
    if (what := spec.uncached()) is not None:
        refused["sampling"] = f"has {what}"
    return Named(MAXTEXT, name, kind, spec.parameter_count(), active, refused)


def as_kept(found: Iterable[Named]) -> str:
    """The content of catalogue.json: a line a model, in which one reason for all that it has not stands once."""
    from aloe_jax.models.maxtext.internals import VERSION

    lines = []
    for each in found:
        values = {key: value for key, value in asdict(each).items() if key != "backend"}
        if each.refused.keys() == ABILITIES.keys() and len(reasons := set(each.refused.values())) == 1:
            values["refused"] = {ALL: reasons.pop()}
        lines.append(json.dumps(values))
    return f'{{"maxtext": "{VERSION}", "models": [\n' + ",\n".join(lines) + "\n]}\n"


def _short(message: str, name: str) -> str:
    """A refusal without what the table says beside it."""
    said = re.search(r"Value error, (.*?)(?: \(| \[type)", message)
    if said is not None:
        return said[1]
    if "Input should be 'default'" in message:
        return "MaxText has a file of settings by this name, and refuses the name"
    message = re.sub(r" \([\w.]+\)", "", message)  # where in the model
    message = message.removeprefix("model.name: ").removeprefix(name).removeprefix(": this MaxText model")
    return message.strip().partition(";")[0]


# ---------------------------------------------------------------- printing


def as_json() -> str:
    """The catalogue for programs."""
    kinds = [dict(zip(("model_type", "title", "backends"), kind, strict=True)) for kind in families()]
    return json.dumps({"models": [each.as_json() for each in models()], "families": kinds}, indent=1)


def show() -> None:
    """The catalogue for people, on standard output; sizes are 10⁹ parameters, in all and used for a token."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = terminal.console()
    for backend, title in (
        (NATIVE, "Our decoder (model.path): 10⁹ parameters, and what can be done"),
        (MAXTEXT, "MaxText (model.backend=maxtext, model.name): also those used for a token"),
    ):
        shown = [each for each in models() if each.backend == backend]
        notes = list(dict.fromkeys(why for each in shown for why in each.refused.values()))
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("name", no_wrap=True)
        for heading in ("10⁹", "used"):
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in ABILITIES.values():
            table.add_column(heading, justify="center", no_wrap=True)
        table.add_column("note", no_wrap=True)
        for each in shown:
            marks = ("" if ability in each.refused else "✓" for ability in ABILITIES)
            numbers = (str(notes.index(why) + 1) for why in dict.fromkeys(each.refused.values()))
            used = "" if each.active == each.parameters else _billions(each.active)
            table.add_row(each.name, _billions(each.parameters), used, *marks, " ".join(numbers))
        console.print(table)
        for number, why in enumerate(notes, start=1):
            console.print(f"{number}: {why}", highlight=False, markup=False)
        console.print()
    readable = Table(title="Hugging Face directories, read and written", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("model_type", "family", "model.backend"):
        readable.add_column(heading)
    for kind, title, backends in families():
        readable.add_row(kind, title, ", ".join(backends))
    console.print(readable)


def _billions(count: int | None) -> str:
    if count is None:
        return ""
    billions = count / 1e9
    return f"{billions:,.1f}" if billions >= 100 else f"{billions:.2f}" if billions >= 0.01 else "<0.01"


if __name__ == "__main__":
    from aloe_jax.models.maxtext.internals import names

    again = sys.argv[1:]  # the names to ask for again; without any, all
    before = {each.name: each for each in models()} if again else {}
    write_atomically(KEPT, as_kept(ask(name) if not again or name in again else before[name] for name in names()))
