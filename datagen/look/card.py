"""The data set card: README.md with the metadata that Hugging Face reads, written from the data itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aloe_jax.conversation import Conversation, Persona
from aloe_jax.data.people import People, shared_people
from aloe_jax.storage.disk import refusals
from aloe_jax.storage.files import write_atomically
from datagen.journal import SIMULATED
from datagen.look.markdown import table
from datagen.look.quality import LABELS, Quality, intervals, measure
from datagen.look.stats import NONE, turn_rows
from datagen.look.verifier_text import verifier_text
from datagen.personas import Personas
from datagen.pool.survey import survey
from datagen.self_preference import self_preference_warnings

_TITLES = {
    "persona_writer": "persona writer",
    "user": "user",
    "inducer": "inducer (infers the persona from the user's messages)",
    "responder": "responder (writes both replies)",
    "verifier": "verifier (knows the persona, prefers one reply)",
}
_ABOUT = (
    "Users with a persona of their own talk with an assistant over several turns and give themselves away little by "
    "little. At every turn the assistant replies twice; it is known which of the two replies this user prefers, and "
    "one of them, drawn at random, is answered (both where a tree forks). So a conversation is a tree of preferences "
    "in context. It is made for training models to *interact to align*, in the manner of "
    "[arXiv 2410.03642](https://arxiv.org/abs/2410.03642)."
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def card(
    personas: Mapping[str, Sequence[Persona]],
    conversations: Mapping[str, Sequence[Conversation]],
    provenance: Mapping[str, object],
    *,
    name: str,
    planned: int | None = None,
    skipped: Mapping[str, int] | None = None,
    lost: Mapping[str, int] | None = None,
) -> str:
    """The card of the data sets of one run, as Markdown with YAML front matter.

    `personas` and `conversations` are by split, `provenance` is what the data sets store (simulated, seed, roles:
    role -> settings). `planned`: how many conversations were to be written, and `skipped` how many of them were given
    up, by reason; `lost`: pairs that were redrawn in those for a contradiction, by the position ("first", "second")
    that the verifier favoured. None where the journal is not at hand.
    Raises ValueError when there are no conversations.
    """
    trees = [tree for part in conversations.values() for tree in part]
    measured = measure(trees)
    simulated = bool(provenance.get("simulated"))
    notice = f"> **{SIMULATED}** Use it to try the method and the software, not to learn about people."
    parts = [
        _front_matter(name, len(trees), simulated),
        f"# {name}: personas and preference conversations",
        *([notice] if simulated else []),
        _ABOUT,
        _contents(personas, conversations),
        _making(provenance, hinted=any(turn.hinted for tree in trees for turn in tree.turns)),
        _turns(trees),
        verifier_text(trees, planned, skipped, lost),
        _quality(measured, trees),
        _coverage(personas, trees, measured),
        _loading(conversations),
        _limits(simulated),
        _citation(),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(path: Path, text: str) -> None:
    """Write the card whole or not at all. Raises AloeError when the disk refuses."""
    with refusals(path):
        write_atomically(path, text)


def _front_matter(name: str, count: int, simulated: bool) -> str:
    import yaml

    tags = ["preference", "dpo", "sft", "personalization", "multi-turn", "persona", "synthetic", "tfds"]
    fields: dict[str, object] = {
        "pretty_name": name,
        "language": ["en"],
        "license": "unknown",
        "task_categories": ["text-generation"],
        "size_categories": [next((size for limit, size in _SIZES if count < limit), "n>1M")],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "multilinguality": ["monolingual"],
        "source_datasets": ["original"],
        "tags": [*tags, "simulated"] if simulated else tags,
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _contents(personas: Mapping[str, Sequence[Persona]], conversations: Mapping[str, Sequence[Conversation]]) -> str:
    people = [
        (split, len(part), len(set(map(Personas.profile_id, part))), len(set(map(Personas.personality_id, part))))
        for split, part in personas.items()
    ]
    trees = [
        (
            split,
            len(part),
            len({Personas.profile_id(tree.persona) for tree in part}),
            sum(len(tree.turns) for tree in part),
            sum(turn.rejected is not None for tree in part for turn in tree.turns),
            sum(any(turn.follows is not None for turn in tree.turns) for tree in part),
        )
        for split, part in conversations.items()
    ]
    sections = ["## Contents"]
    if people:
        sections.append(table(("personas, split", "personas", "profiles", "personalities"), people))
    sections.append(table(("conversations, split", "conversations", "profiles", "turns", "pairs", "forked"), trees))
    sections.append(
        "The benchmark's personas share no profile and no personality with training." + _shared(conversations)
    )
    return "\n\n".join(sections)


def _shared(conversations: Mapping[str, Sequence[Conversation]]) -> str:
    """What training and validation have in common."""
    if not {"train", "validation"} <= conversations.keys():
        return ""
    train, validation = (People.of(tree.persona for tree in conversations[split]) for split in ("train", "validation"))
    compared = f" Validation's {shared_people(train, validation)}."
    if train.profiles & validation.profiles:  # which the line says
        return compared
    manners = "with manners that it has" if train.personalities & validation.personalities else "nor their manners"
    return f"{compared} A validation loss is of people whom training has not met, {manners}."


def _making(provenance: Mapping[str, object], hinted: bool) -> str:
    roles = provenance.get("roles")
    shown = [
        (title, roles[role].get("model") or "not recorded", roles[role].get("temperature", "not recorded"))
        for role, title in _TITLES.items()
        if isinstance(roles, dict) and role in roles
    ]
    replies = "once with that as a hidden hint and once without" if hinted else "twice, without knowing it"
    lines = [
        "## How it was made",
        "A pool of profiles and one of personalities grew from examples: a writer was shown a few and asked for more, "
        "and near-copies were refused. For every turn the *user* wrote a message that reveals a part of the persona; "
        "the *inducer* stated what all messages so far had revealed; the *responder* replied "
        f"{replies}; the *verifier*, who knows the whole persona, said which reply this user prefers, seeing the two "
        "in random order.",
    ]
    if shown:
        lines.append(table(("role", "model", "temperature"), shown))
    models = {role: roles[role].get("model") for role in _TITLES if role in roles} if isinstance(roles, dict) else {}
    lines += [f"**Self-preference bias**: {sentence}." for sentence in self_preference_warnings(models)]
    lines.append(f"Seed: {provenance.get('seed', 'not recorded')}. Written by aloe-jax with `python -m datagen`.")
    return "\n\n".join(lines)


def _turns(trees: Sequence[Conversation]) -> str:
    words = ("user words", "preferred", "rejected", "inferred")
    return "\n\n".join(
        [
            "## Turn by turn",
            "Means in words; then the share of turns where the reply written with the hint is the preferred one, and "
            "where the dialogue went on from the preferred reply.",
            table(("turn", "turns", *words, "hint preferred", "preferred continued"), turn_rows(trees)),
        ]
    )


def _quality(quality: Quality, trees: Sequence[Conversation]) -> str:
    first, last = quality.turns[0], quality.turns[-1]
    ends = intervals(quality, [tree.persona for tree in trees])
    rows = [
        (
            label.label,
            label.written(getattr(quality.overall, label.name)),
            label.reach(*ends[label.name]),
            *(label.written(getattr(measures, label.name)) for measures in (first, last)),
            label.help,
        )
        for label in LABELS
    ]
    return "\n\n".join(
        [
            "## Quality",
            "Measured on word counts, without a language model: good for comparing data sets and for finding odd "
            "conversations, no judgement of a text. Means are over conversations; their 95% intervals know that "
            "conversations share profiles and personalities.",
            table(("measure", "mean", "95% interval", "first turn", "last turn", "what it is"), rows),
        ]
    )


def _coverage(personas: Mapping[str, Sequence[Persona]], trees: Sequence[Conversation], quality: Quality) -> str:
    everyone = [persona for part in personas.values() for persona in part] or [tree.persona for tree in trees]
    profiles = list({Personas.profile_id(persona): persona.profile for persona in everyone}.values())
    surveyed = survey(profiles)
    used = len({tree.persona.id for tree in trees})
    trained = len(personas.get("train", ())) or used
    known = surveyed.decades.total()
    decades = ", ".join(f"{ten}s {surveyed.decades[ten]:,}" for ten in sorted(surveyed.decades))
    revealed = next(label for label in LABELS if label.name == "revealed")
    rows: list[tuple[object, ...]] = [("age", f"{known:,} of {surveyed.profiles:,}", decades or NONE)]
    for attribute, values in surveyed.values.items():
        often = ", ".join(f"{value} {count:,}" for value, count in values.most_common(6))
        rows.append((attribute, f"{surveyed.found[attribute]:,} of {surveyed.profiles:,}", often or NONE))
    return "\n\n".join(
        [
            "## Coverage",
            f"{used:,} of {trained:,} training personas have a conversation. At the last turn the inferred persona "
            f"states {revealed.written(quality.turns[-1].revealed)} of a persona's sentences. What the profiles "
            "say, found by patterns (a survey, not a census):",
            table(("attribute", "found in", "most frequent"), rows),
        ]
    )


def _loading(conversations: Mapping[str, Sequence[Conversation]]) -> str:
    split = next(iter(conversations))
    return f"""## Loading

With TFDS, which needs no TensorFlow for this (paths from the directory of this card):

```python
import tensorflow_datasets as tfds

trees = tfds.builder_from_directory("aloe_trees/1.0.0").as_data_source("{split}")
personas = tfds.builder_from_directory("aloe_personas/1.0.0").as_data_source("benchmark")
```

Validated and typed, with aloe-jax:

```python
from aloe_jax.data.dataset import read_conversations

trees = read_conversations("aloe_trees/1.0.0", "{split}")  # list[Conversation]
```

With Hugging Face `datasets`, as preference rows for TRL (`--to ours` keeps every field, `--to chat` makes SFT lines):

```bash
python -m datagen convert aloe_trees/1.0.0 {split}.jsonl --from ours --to trl --split {split}
```

```python
from datasets import load_dataset

rows = load_dataset("json", data_files={{"{split}": "{split}.jsonl"}}, split="{split}")  # prompt, chosen, rejected
```"""


def _limits(simulated: bool) -> str:
    who = "a script" if simulated else "language models"
    return f"""## Limits and intended use

Intended for research on models that adapt to one person over a conversation: supervised fine-tuning on the preferred
replies, direct preference optimisation on the pairs, and tests of both on personas that were held out.

- Nobody in it is a person. Users, replies and preferences were written by {who}; a preference says what the verifier
  took a persona to like, and carries its biases towards length and position (measured above) and tone.
- Personas are invented, yet follow stereotypes of age, gender and work; look at the coverage above and at the texts
  before drawing conclusions about groups. Do not use the data to infer traits of real people.
- A reply can state what the user has not revealed (persona leakage), repeat itself, or drift; the measures above find
  much of that, not all. `python -m datagen browse` shows it conversation by conversation.
- It is English, and about everyday talk; it has not been reviewed for advice on health, law or money.
- No licence is stated. Whoever publishes it has to, with regard to the terms of the models above."""


def _citation() -> str:
    reference = (Path(__file__).parents[1] / "aloe_trees" / "CITATIONS.bib").read_text(encoding="utf-8").strip()
    return (
        "## Citation\n\nThe method is that of [arXiv 2410.03642](https://arxiv.org/abs/2410.03642):\n\n"
        f"```bibtex\n{reference}\n```"
    )
