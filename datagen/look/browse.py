"""Writes personas and conversation trees as one HTML file to read, search and filter, without a server or a network."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from aloe_jax.conversation import Conversation, Persona, Turn
from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.offline_page import fill, read_assets, read_text
from datagen.build import split_by_profile
from datagen.conversations import recorded_conversations
from datagen.convert import Format, read
from datagen.journal import CONVERSATION, SIMULATED, is_simulated
from datagen.look.quality import LABELS, Leak, Measures, Quality, measure
from datagen.look.sentences import content_words, sentences, words
from datagen.output_files import replacing_file
from datagen.personas import Personas, recorded_personas
from datagen.settings import DatagenSettings

_SCRIPTS = ("marks", "data", "search", "filters", "list", "dialogue", "persona", "app")
SAME = 0.6  # share of the fewer content words that an inferred sentence has in common with the persona's


def browse_journal(ledger: Ledger, settings: DatagenSettings, target: Path | None = None) -> Path:
    """Write the journal's personas and conversations as OUTPUT/browse.html, also while there is more to come.

    Raises AloeError when the journal holds no personas.
    """
    personas = recorded_personas(ledger, settings)
    roles = {name: getattr(settings.roles, name).shaping() for name in type(settings.roles).model_fields}
    trees: dict[str, Sequence[Conversation]] = {}
    if ledger.all(CONVERSATION):
        found = recorded_conversations(ledger, personas.training, settings)
        if len({Personas.profile_id(tree.persona) for tree in found}) > 1:
            fraction = settings.conversations.validation_fraction
            trees["train"], trees["validation"] = split_by_profile(found, fraction, settings.seed)
        else:
            trees["train"] = found
    return write_page(
        target or Path(settings.output) / "browse.html",
        {"train": personas.training, "benchmark": personas.benchmark},
        trees,
        title=f"Conversation trees: {Path(settings.output).name}",
        simulated=SIMULATED if is_simulated(settings) else "",
        # What shaped the texts; where a model is reached is nobody's business in a file that is passed on.
        provenance={"seed": settings.seed, "roles": roles},
    )


def browse_data(path: str | Path, target: Path, format: Format = "ours") -> Path:
    """Write a TFDS directory (all its splits) or a file of any conversation format as a page.

    A JSONL file of ours brings NAME.validation.jsonl along where there is one. Raises AloeError as reading does.
    """
    path = Path(path)
    provenance: dict[str, object] = {}
    if path.is_dir():
        splits, provenance = _tfds(path)
    else:
        sibling = path.with_name(f"{path.stem}.validation{path.suffix}")
        files = {"train": path, "validation": sibling} if format == "ours" and sibling.is_file() else {"": path}
        splits = {split: list(read(file, format)) for split, file in files.items()}
    name = f"{path.parent.name} {path.name}" if path.is_dir() else path.name
    simulated = "Simulated: the data set says that its texts come from a script." if provenance.get("simulated") else ""
    return write_page(
        target, {}, splits, title=f"Conversation trees: {name}", simulated=simulated, provenance=provenance
    )


def write_page(
    target: Path,
    personas: Mapping[str, Sequence[Persona]],
    conversations: Mapping[str, Sequence[Conversation]],
    *,
    title: str,
    simulated: str = "",
    provenance: Mapping[str, object] | None = None,
    quality: Quality | None = None,
) -> Path:
    """Write the page of personas and conversations by split, under a temporary name first; returns `target`.

    `simulated` is shown above everything when given. `quality` is that of all conversations in the order of the
    splits, measured by this function when it is not given. The same arguments give the same bytes.
    """
    trees = [(split, tree) for split, part in conversations.items() for tree in part]
    if not trees and not any(personas.values()):
        raise AloeError(f"{target}: there is nothing to show yet; run `python -m datagen personas` first")
    measured = None if not trees else quality or measure([tree for _, tree in trees])
    people: dict[tuple[str, str, str], dict[str, object]] = {}
    for split, part in personas.items():
        for persona in part:
            _add(people, persona)["split"] = split
    for _, tree in trees:
        _add(people, tree.persona)
    numbers = {key: number for number, key in enumerate(people)}
    payload = {
        "title": title,
        "simulated": simulated,
        "provenance": json.dumps(provenance or {}, indent=1, ensure_ascii=False) if provenance else "not recorded",
        "measures": [{"key": it.name, "label": it.label, "unit": it.unit, "help": it.help} for it in LABELS],
        "personas": list(people.values()),
        "conversations": [
            _conversation(tree, split, numbers[_key(tree.persona)], measures, leaks)
            for (split, tree), measures, leaks in zip(
                trees, measured.conversations if measured else (), measured.leaks if measured else (), strict=True
            )
        ],
    }
    packed = gzip.compress(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(), 7, mtime=0)
    # Base64 has no "<", so that no text can end the element early.
    data = base64.b64encode(packed).decode()
    assets = read_assets("datagen.look", "browser", _SCRIPTS, ["style"])
    page = fill(read_text("datagen.look", "browser/page.html"), assets, data)
    with replacing_file(target) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")
    return target


# ---------------------------------------------------------------- the data, laid out as browser/data.js says


def _key(persona: Persona) -> tuple[str, str, str]:
    return persona.id, persona.profile, persona.personality


def _add(people: dict[tuple[str, str, str], dict[str, object]], persona: Persona) -> dict[str, object]:
    return people.setdefault(
        _key(persona),
        {"id": persona.id, "profile": sentences(persona.profile), "personality": sentences(persona.personality)},
    )


def _conversation(
    tree: Conversation, split: str, persona: int, measures: Measures, leaks: list[Leak]
) -> dict[str, object]:
    depths = [tree.depth(number) for number in range(len(tree.turns))]
    found: list[list[list[int]]] = [[] for _ in tree.turns]
    for leak in leaks:
        found[leak.turn].append([int(leak.branch == "rejected"), leak.sentence])
    return {
        "id": tree.id,
        "persona": persona,
        "split": split,
        "depth": 1 + max(depths),
        "forked": len(set(depths)) < len(depths),
        "measures": [
            None if math.isnan(value := getattr(measures, label.name)) else round(value, 4) for label in LABELS
        ],
        "turns": [_turn(turn, tree.persona, found[number]) for number, turn in enumerate(tree.turns)],
    }


def _turn(turn: Turn, persona: Persona, leaks: list[list[int]]) -> dict[str, object]:
    follows = {} if turn.follows is None else {"f": turn.follows, "a": int(turn.after == "rejected")}
    return {
        "u": turn.user,
        "p": turn.preferred,
        "r": turn.rejected,
        "c": int(turn.continued == "rejected"),
        "h": None if turn.hinted is None else int(turn.hinted == "rejected"),
        **follows,
        "i": [
            matched
            for text in (turn.inferred_profile, turn.inferred_personality)
            for sentence in sentences(text)
            if (matched := _matched(sentence.strip(), persona.profile, persona.personality)) is not None
        ],
        "l": leaks,
    }


@cache
def _persona_words(profile: str, personality: str) -> tuple[dict[tuple[str, ...], int], list[frozenset[str]]]:
    """(exact words -> sentence number, content words by sentence number), counted through profile and personality."""
    parts = sentences(profile) + sentences(personality)
    return {tuple(words(text)): n for n, text in enumerate(parts)}, [frozenset(content_words(text)) for text in parts]


@cache
def _matched(sentence: str, profile: str, personality: str) -> int | tuple[str, int] | None:
    """An inferred sentence as the number of the persona's sentence, or (its text, number or -1); None says nothing."""
    exact, by_number = _persona_words(profile, personality)
    number = exact.get(tuple(words(sentence)))
    if number is not None:
        return number
    content = frozenset(content_words(sentence))
    if not content:
        return None  # such as the word "None" where nothing was inferred
    shares = [len(content & other) / max(1, min(len(content), len(other))) for other in by_number]
    best = max(range(len(shares)), key=shares.__getitem__, default=-1)
    return sentence, best if shares and shares[best] >= SAME else -1


def _tfds(path: Path) -> tuple[dict[str, list[Conversation]], dict[str, object]]:
    from aloe_jax.data.dataset import read_conversations

    # Asking for a split that is not there is how `read_conversations` says which there are; so TFDS itself is asked.
    if not (path / "dataset_info.json").is_file():
        read_conversations(path)  # raises, saying what a data set is
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(path).info
    splits = {str(split): read_conversations(path, str(split)) for split in info.splits}
    return splits, dict(info.metadata or {})
