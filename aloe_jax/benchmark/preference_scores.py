"""How models score held-out pairs of replies: no user, no judge, only log-probabilities.

For every turn of a conversation tree the model is asked how likely it finds the preferred and the rejected reply:

    accuracy             share of the pairs whose preferred reply has the higher log-probability
    normalised accuracy  the same with log-probabilities a token, which length does not decide
    margin               log-probability of the preferred reply minus that of the rejected one, in nats
    reward accuracy      share of the pairs with a higher implicit reward for the preferred reply: what the model adds
                         to the log-probability that the reference gives (Rafailov et al. 2023, arXiv 2305.18290)
    reward margin        the difference of these rewards in nats, without DPO's beta

Equal numbers count half. A conversation is taken with all its pairs, which depend on each other, and conversations
whose personas share profiles or personalities are not independent either: intervals are those of
`aloe_jax.benchmark.intervals`, by the personas of the conversations.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import jax
import numpy as np

from aloe_jax import __version__
from aloe_jax.benchmark.case_design import CaseDesign
from aloe_jax.benchmark.intervals import Array, interval
from aloe_jax.benchmark.preference_file import PREFERENCES, ModelScores, Preferences, TurnScores
from aloe_jax.benchmark.results import StoredEstimate
from aloe_jax.benchmark.settings import PreferencesSettings
from aloe_jax.conversation import Conversation, Persona
from aloe_jax.coverage import Coverage
from aloe_jax.data.dataset import read_conversations
from aloe_jax.data.loader import evaluation_batches
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.packing import pack
from aloe_jax.data.people import is_recorded
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.data.trees import TokenTree
from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_pretrained, tokenizer_directory
from aloe_jax.models.spec import Compute, check_vocabulary
from aloe_jax.parallel.distributed import place
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.progress import Progress
from aloe_jax.settings import dump_settings
from aloe_jax.storage.files import write_atomically
from aloe_jax.training.logprobs import reply_logps

if TYPE_CHECKING:
    from rich.table import Table

_TOO_LONG = "longer than a row (raise data.row_length)"

PairKey = tuple[str, int]  # conversation, number of the turn in its list


@dataclass(frozen=True)
class PairScore:
    """Log-probabilities of both replies of one pair, summed over their tokens, end of turn included."""

    turn: int  # 1-based depth
    preferred: float
    rejected: float
    preferred_tokens: int
    rejected_tokens: int


NUMBERS = [name for name in TurnScores.model_fields if name not in ("turn", "pairs")]


@dataclass(frozen=True)
class PreferenceResults:
    """All models, in the order of the settings."""

    models: dict[str, ModelScores]
    coverage: tuple[Coverage, ...] = ()  # of the pairs


def score_preferences(settings: PreferencesSettings) -> PreferenceResults:
    """Score the pairs of `settings.data` by every model, one after the other; shows its progress.

    Only pairs that every model could score count, so that all are compared on the same ones. Raises AloeError where
    there are none, and for what is wrong with data and models.
    """
    conversations = read_conversations(settings.data.path, settings.data.split, settings.data.limit)
    paired = [
        (one.id, number) for one in conversations for number, turn in enumerate(one.turns) if turn.rejected is not None
    ]
    lost: dict[PairKey, str] = {}
    with Progress() as progress:

        def scores(path: str) -> dict[PairKey, PairScore]:
            found, unstable = pair_scores(path, conversations, settings, progress)
            for key in paired:
                if key not in found:
                    reason = "that the chat template would rewrite" if key[0] in unstable else _TOO_LONG
                    lost.setdefault(key, f"{reason} ({path})")
            return found

        reference = None if settings.reference is None else scores(settings.reference)
        found = {name: scores(path) for name, path in settings.models.items()}
    everyone = [*found.values(), *([reference] if reference is not None else [])]
    shared = set(everyone[0]).intersection(*everyone[1:])
    coverage = Coverage("pairs", len(paired), Counter(lost.values()), len(lost))
    if not shared:
        raise AloeError(
            f"{settings.data.path}: no turn has two replies that every model could score; "
            + (coverage.line() if paired else "there is none with two replies")
        )
    keys = [key for key in everyone[0] if key in shared]
    personas = {one.id: one.persona for one in conversations}
    return PreferenceResults(
        {name: summarise(scores, reference, keys, len(paired), settings, personas) for name, scores in found.items()},
        (coverage,),
    )


def pair_scores(
    path: str, conversations: Sequence[Conversation], settings: PreferencesSettings, progress: Progress
) -> tuple[dict[PairKey, PairScore], set[str]]:
    """Log-probabilities of every pair that fits a row, by conversation and turn, in their order.

    Also the conversations that are passed over because the chat template changes what was said before.
    """
    tokenizer = load_tokenizer(tokenizer_directory(path))
    template = ChatTemplate(tokenizer)
    trees, owner, unstable = _trees(conversations, template, path, settings.data.row_length)
    rows, report = pack(trees, settings.data.row_length)
    click.echo(f"{path}: {report}")
    mesh = make_mesh(settings.mesh)
    compute = Compute(attention=settings.model.attention, dtype=settings.model.compute_dtype)
    model = load_pretrained(path, dtype=settings.model.dtype, mesh=mesh, compute=compute)
    check_vocabulary(tokenizer, model.spec, path)
    longest = int(rows.positions.max()) + 1
    if longest > model.spec.max_length:
        raise AloeError(
            f"data.row_length: the longest conversation has {longest} tokens on one path, {path} takes at most "
            f"{model.spec.max_length}; lower data.row_length to {model.spec.max_length}"
        )
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-settings.data.rows // shards) * shards
    logps: dict[str, tuple[float, int]] = {}
    task = progress.add(f"{path}: rows", len(rows))
    with jax.set_mesh(mesh):
        scored = jax.jit(reply_logps)
        for number, batch in enumerate(evaluation_batches(rows, size)):
            values = np.asarray(scored(model, place(batch, mesh)))
            for row, ids in enumerate(rows.reply_ids[number * size : (number + 1) * size]):
                for reply, id in enumerate(ids, 1):
                    logps[id] = float(values[row, reply]), int(batch["reply_length"][row, reply])
            task.advance(min(size, len(rows) - number * size))
    return dict(_pairs(trees, owner, logps)), unstable


def _trees(
    conversations: Sequence[Conversation], template: ChatTemplate, path: str, row_length: int
) -> tuple[list[TokenTree], list[str], set[str]]:
    """Token trees with pairs, the conversations that they are of, and the conversations that are passed over."""
    trees: list[TokenTree] = []
    owner: list[str] = []
    unstable: dict[str, UnstableTemplateError] = {}
    for conversation in conversations:
        try:
            new = [tree for tree in template.laid_out(MessageTree.of(conversation), row_length).trees if tree.pairs]
        except UnstableTemplateError as error:
            unstable[conversation.id] = error
            continue
        trees += new
        owner += [conversation.id] * len(new)
    if unstable:
        first = next(iter(unstable.values()))
        click.echo(f"warning: {path}: {len(unstable)} conversations skipped, the first: {first}", err=True)
        if not trees:
            raise first
    if not trees:
        raise AloeError(f"{path}: no turn of the conversations has two replies")
    return trees, owner, set(unstable)


def _pairs(
    trees: Sequence[TokenTree], owner: Sequence[str], logps: Mapping[str, tuple[float, int]]
) -> list[tuple[PairKey, PairScore]]:
    found = []
    for tree, conversation in zip(trees, owner, strict=True):
        for pair in tree.pairs:
            preferred, rejected = tree.nodes[pair.preferred], tree.nodes[pair.rejected]
            if preferred.id in logps and rejected.id in logps:  # otherwise its turn did not fit a row
                (better, one), (worse, other) = logps[preferred.id], logps[rejected.id]
                score = PairScore(pair.turn + 1, better, worse, one, other)
                found.append(((conversation, preferred.source), score))
    return found


def summarise(
    scores: Mapping[PairKey, PairScore],
    reference: Mapping[PairKey, PairScore] | None,
    keys: Sequence[PairKey],
    possible: int,
    settings: PreferencesSettings,
    personas: Mapping[str, Persona | None],
) -> ModelScores:
    """The numbers of one model over the pairs `keys`, of `possible` ones; `personas` by conversation."""
    table = np.array([_numbers(scores[key], reference[key] if reference else None) for key in keys])
    names = {conversation: number for number, conversation in enumerate(dict.fromkeys(c for c, _ in keys))}
    member = np.zeros((len(names), len(keys)))
    member[[names[conversation] for conversation, _ in keys], np.arange(len(keys))] = 1.0
    sums, counts = member @ np.nan_to_num(table), member.sum(axis=1)  # by conversation

    def means(weights: Array) -> Array:
        return weights @ sums / (weights @ counts)[:, None]

    known = [personas.get(conversation) for conversation in names]
    design = CaseDesign.of([one if one is not None and is_recorded(one) else None for one in known])
    value, (low, high) = interval(means, design, settings.bootstrap, settings.seed)
    undefined = np.isnan(table).any(axis=0)
    ends = np.where(undefined, np.nan, [value, low, high]).T  # [numbers, 3]
    estimates = {
        number: StoredEstimate(value=value, low=low, high=high)
        for number, (value, low, high) in zip(NUMBERS, ends, strict=True)
    }
    turns = np.array([scores[key].turn for key in keys])
    by_turn = []
    for turn in np.unique(turns):
        own = table[turns == turn]
        means_of_turn = dict(zip(NUMBERS, own.mean(axis=0), strict=True))
        by_turn.append(TurnScores(turn=int(turn), pairs=len(own), **means_of_turn))
    lost = possible - len(keys)
    return ModelScores(conversations=len(names), pairs=len(keys), lost=lost, by_turn=by_turn, **estimates)


def _numbers(own: PairScore, reference: PairScore | None) -> list[float]:
    """NUMBERS of one pair."""
    margin = own.preferred - own.rejected
    normalised = own.preferred / own.preferred_tokens - own.rejected / own.rejected_tokens
    reward = math.nan if reference is None else margin - (reference.preferred - reference.rejected)
    return [_won(margin), _won(normalised), margin, own.preferred, own.rejected, _won(reward), reward]


def _won(margin: float) -> float:
    return margin if math.isnan(margin) else 0.5 if margin == 0 else float(margin > 0)


def write_preferences(settings: PreferencesSettings, results: PreferenceResults) -> Path:
    """Write preferences.json and config.yaml, at first under temporary names; returns the path of the former."""
    directory = Path(settings.output)
    directory.mkdir(parents=True, exist_ok=True)
    record = Preferences(
        format="aloe-preferences",
        version=1,
        aloe_jax=__version__,
        models=results.models,
        settings=settings.model_dump(mode="json"),
    ).model_dump(mode="json")
    write_atomically(directory / "config.yaml", dump_settings(settings))
    write_atomically(directory / PREFERENCES, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return directory / PREFERENCES


def table(results: PreferenceResults) -> Table:
    """The summary for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from aloe_jax.terminal import plain

    first = next(iter(results.models.values()))
    grid = Table(
        title=f"Preferences: {first.pairs:,} pairs of {first.conversations:,} conversations, 95% intervals",
        caption=f"{first.lost:,} pairs are left out: not every model could score them" if first.lost else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    grid.add_column("model")
    shown = [name for name in NUMBERS if not name.endswith("_logp")]
    for name in shown:
        grid.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for model, one in results.models.items():
        cells = []
        for name in shown:
            estimate: StoredEstimate = getattr(one, name)
            form = ".1%" if name.endswith("accuracy") else "+.2f"
            spread = "" if estimate.low is None else f"\n[dim]{estimate.low:{form}}…{estimate.high:{form}}[/dim]"
            cells.append("\N{EN DASH}" if estimate.value is None else f"{estimate.value:{form}}{spread}")
        grid.add_row(plain(model), *cells)
    return grid
