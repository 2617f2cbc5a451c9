"""Dialogues in the journal that a run does not use, because the same model was sampled in another way then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aloe_jax.benchmark.dialogue import Journal, digest
from aloe_jax.conversation import Persona
from aloe_jax.llm import notices
from aloe_jax.llm.ledger import Ledger

CANDIDATE = "candidate"  # records of the journal: the identities of its candidates, by their digests
# Earlier versions kept no identities, and their benchmark had this default.
_EARLIER_DEFAULT = {"max_new_tokens": 128}


def report_unused(
    ledger: Ledger,
    name: str,
    identity: dict[str, object],
    user: dict[str, object],
    seed: int,
    personas: Sequence[Persona],
) -> None:
    """Report in a line that the journal has dialogues of this model directory with other sampling, where it has them.

    Nothing is reported once a dialogue as it is wanted now has begun. `identity` is the candidate's, which is journaled
    for later runs; `user` describes the user simulator (`Cast.describe`).
    """
    sampling = identity.get("sampling")
    if not isinstance(sampling, dict):
        return  # no model directory

    def begun(candidate: dict[str, object]) -> int:
        journal = Journal(ledger, candidate, user, seed, personas)
        return sum(bool(journal.read(case, 1)) for case in range(len(personas)))

    if not begun(identity):
        for earlier in _earlier(ledger, identity, sampling):
            if count := begun(earlier):
                changed = _changes(earlier, sampling)
                notices.report(
                    f"warning: models.{name}: {changed} in {ledger.path}: these {count} dialogues are not used"
                )
    ledger.put(CANDIDATE, digest(identity), identity)


def _earlier(ledger: Ledger, identity: dict[str, object], sampling: dict[str, object]) -> Iterator[dict[str, object]]:
    """Identities that may be in the journal and differ from this one by their sampling alone."""
    found = [*ledger.all(CANDIDATE).values(), {**identity, "sampling": {**sampling, **_EARLIER_DEFAULT}}]
    known = [identity]
    for one in found:
        if one not in known and {**one, "sampling": sampling} == identity and isinstance(one.get("sampling"), dict):
            known.append(one)
            yield one


def _changes(earlier: dict[str, object], sampling: dict[str, object]) -> str:
    """Such as "sampling.max_new_tokens was 128 (now 512)"."""
    before = earlier["sampling"]
    assert isinstance(before, dict)
    changed = [key for key in {**before, **sampling} if before.get(key) != sampling.get(key)]
    return ", ".join(f"sampling.{key} was {before.get(key)} (now {sampling.get(key)})" for key in changed)
