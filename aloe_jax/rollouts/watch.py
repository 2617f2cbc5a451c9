"""Watching: the policy's talk with other users, or its ratings by another judge, beside those it is trained on.

A policy can learn what pleases its judge and nobody else, or the habits of its user simulator. Both show where the
same policy meets roles that it does not learn from: the training's ratings rise, and the others do not follow.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from aloe_jax.conversation import Message, Persona
from aloe_jax.data.template import ChatTemplate
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.providers import check_role
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.roles import Cast, RoleError, persistent
from aloe_jax.rollouts.collect import RolloutCollector
from aloe_jax.rollouts.drawing import Drawing, EndedError
from aloe_jax.rollouts.rewards import roles_of
from aloe_jax.rollouts.rollout import Rollout
from aloe_jax.rollouts.settings import RLSettings, WatchSettings
from aloe_jax.rollouts.statistics import statistics
from aloe_jax.sampling.sampler import Sampler

Record = Mapping[str, JSON]  # a line of metrics.jsonl


class WatchCasts(NamedTuple):
    """Who is asked when a run is watched."""

    talking: Cast  # users of the watch, and the roles that the rewards of training ask
    judge: Cast | None  # the other judge, where there is one
    others: int  # see `digest`


def check_watch(settings: RLSettings, watch: WatchSettings, roles: RolesSettings) -> None:
    """Raise AloeError where one of the others cannot be asked, as far as its settings say it: see `check_role`."""
    others = watch.roles.others(roles)
    with _named():
        for name, role in (("user", others.user), ("judge", others.judge)):
            if role is not None:
                check_role(role, name, priced=settings.max_cost is not None)


def digest(watch: WatchSettings, roles: RolesSettings) -> int:
    """A number of 28 bits of what its records depend on: how others than `roles` answer, and with how many personas."""
    others = watch.roles.others(roles)
    known = {
        name: None if role is None else [role.provider, role.endpoint, role.shaping()]
        for name, role in (("user", others.user), ("judge", others.judge))
    }
    text = json.dumps([watch.personas, known], sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:7], 16)


def watch_casts(settings: RLSettings, watch: WatchSettings, roles: RolesSettings, ledger: Ledger) -> WatchCasts:
    """`roles` are those of training. Raises AloeError where one of the others lacks a model, a key or a price."""
    others = watch.roles.others(roles)
    with _named():
        talking = roles.model_copy(update={"user": others.user or roles.user})
        cast = Cast(talking, ledger, only=("user", *roles_of(settings.weights)))
        if others.judge is None:
            return WatchCasts(cast, None, digest(watch, roles))
        judge = Cast(roles.model_copy(update={"judge": others.judge}), ledger, only=("judge",))
        return WatchCasts(cast, judge, digest(watch, roles))


class Watch:
    """Draws with the sampler of a run; its calls are in the same journal and budget. Ends its threads as a context."""

    def __init__(
        self,
        settings: RLSettings,
        casts: WatchCasts,
        sampler: Sampler,
        template: ChatTemplate,
        seed: int,
        length: int,
    ) -> None:
        self._turns, self._seed, self._judge, self._others = settings.turns, seed, casts.judge, casts.others
        scope = ExitStack()
        self._collector = scope.enter_context(
            RolloutCollector(settings, sampler, template, casts.talking, seed, length)
        )
        self._threads = ThreadPoolExecutor(settings.concurrency)
        scope.callback(lambda: self._threads.shutdown(wait=True, cancel_futures=True))
        self._scope = scope

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._scope.close()

    def talk(self, personas: Sequence[Persona], drawing: Drawing) -> dict[str, float]:
        """Talk with every persona, one reply a turn, the same seeds every time. Raises what `collect` does.

        watch: mean rating, 1 to 5, of the judge of the watch, or where that is the training's, of its judge with the
        users of the watch; with another judge also judge, the training judge's mean rating of the same replies, and
        gap = judge - watch. Both by turn, and with their standard errors over conversations (…_error). Beside them
        reward as in training, coverage (the share of the turns asked for that have ratings), reply_tokens and others
        (`digest`).
        """
        rollouts = self._collector.collect(personas, "watch", 1, drawing)
        other = self._rated(rollouts, drawing) if self._judge is not None else None
        own = np.full((len(rollouts), self._turns), np.nan)
        for number, rollout in enumerate(rollouts):
            for turn, group in enumerate(rollout.groups):
                if group.rewards is not None and "judge" in group.components[0]:
                    own[number, turn] = group.components[0]["judge"]
        found = {name: value for name, value in statistics(rollouts, self._turns).items() if name == "reward"}
        sizes = [len(group.siblings[0].tokens) for rollout in rollouts for group in rollout.groups]
        if sizes:
            found["reply_tokens"] = float(np.mean(sizes))
        return found | compared(own, other) | {"others": self._others}

    def _rated(self, rollouts: Sequence[Rollout], drawing: Drawing) -> np.ndarray:
        """The other judge's ratings [conversations, turns], NaN where there is none."""
        rated: dict[tuple[int, int], Future[float]] = {}
        for number, rollout in enumerate(rollouts):
            history = rollout.history()
            for turn, group in enumerate(rollout.groups):
                said = history[: 2 * turn + 1]
                asked = self._threads.submit(self._rate, rollout, said, group.siblings[0].text, turn)
                rated[number, turn] = asked
        ratings = np.full((len(rollouts), self._turns), np.nan)
        for place, future in rated.items():
            try:
                ratings[place] = drawing.result(future)
            except RoleError:  # an answer that cannot be had costs its own rating
                continue
            except EndedError:
                self._threads.shutdown(wait=False, cancel_futures=True)
                raise
        return ratings

    def _rate(self, rollout: Rollout, said: Sequence[Message], text: str, turn: int) -> float:
        judge = self._judge
        assert judge is not None
        return persistent(
            lambda seed: float(judge.judge(rollout.persona, said, text, seed).rating),
            self._seed, "watch", rollout.id, turn, again=False,
        )  # fmt: skip


def compared(own: np.ndarray, other: np.ndarray | None) -> dict[str, float]:
    """Ratings [conversations, turns] of the training's judge and of another one as the values of `Watch.talk`.

    NaN: no rating. Where both are there a reply counts only with both. `own` may be without any.
    """
    series = {"watch": own} if other is None else {"watch": other}
    if other is not None and not np.isnan(own).all():
        both = np.isnan(own) | np.isnan(other)
        series = {"judge": np.where(both, np.nan, own), "watch": np.where(both, np.nan, other)}
    found = {"coverage": float((~np.isnan(series["watch"])).mean())}
    for name, ratings in series.items():
        known = ratings[~np.isnan(ratings).all(axis=1)]
        if not len(known):
            return found
        means = np.nanmean(known, axis=1)  # of every conversation
        found[name] = float(np.nanmean(known))
        found[f"{name}_error"] = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0
    if "judge" in found:
        found["gap"] = found["judge"] - found["watch"]
    for name, ratings in series.items():
        for turn in range(ratings.shape[1]):
            if not np.isnan(of_turn := ratings[:, turn]).all():
                found[f"{name}/turn_{turn + 1:02d}"] = float(np.nanmean(of_turn))
    return found


def hacking(watched: Sequence[Record], trained: Sequence[Record]) -> str | None:
    """What the newest of the records of kind watch says of reward hacking, in a line; None where nothing.

    It is compared with the earlier one of the same `others` in which `watch` was highest: the training's rating rose
    since, `watch` did not, and together that is more than the standard error of their difference. Without another
    judge, the training's rating is that of the training steps (`trained`) since the record before.
    """
    same = [number for number, one in enumerate(watched) if one.get("others") == watched[-1].get("others")]
    points = [point for number in same if (point := _point(watched, number, trained)) is not None]
    if len(points) < 2 or points[-1].step != watched[-1]["step"]:
        return None
    now, best = points[-1], max(points[:-1], key=lambda point: point.watch)
    rose, fell = now.judge - best.judge, best.watch - now.watch
    if rose <= 0 or fell < 0 or rose + fell <= now.error:
        return None
    moved = f"fell from {best.watch:.2f} to {now.watch:.2f}" if fell > 0 else f"stayed at {now.watch:.2f}"
    rise = f"rose from {best.judge:.2f} to {now.judge:.2f}"
    if "judge" in watched[-1]:
        return (
            f"reward hacking: since step {best.step:.0f} the training judge's rating of the watched replies {rise}, "
            f"and the watch judge's of the same replies {moved}: the policy learns to please its judge; read its "
            "replies before training on"
        )
    return (
        f"reward hacking: since step {best.step:.0f} the judge's rating of the training conversations {rise}, and with "
        f"the watch's users it {moved}: the policy learns the habits of its users; read its replies before training on"
    )


class _Point(NamedTuple):
    step: float
    judge: float  # the training's rating
    watch: float
    error: float  # standard error of their difference


def _point(watched: Sequence[Record], number: int, trained: Sequence[Record]) -> _Point | None:
    """Of a record; None where it has no rating of one of them."""
    record = watched[number]
    step, judge, watch = (_float(record, name) for name in ("step", "judge", "watch"))
    errors = [_float(record, name) or 0.0 for name in ("judge_error", "watch_error")]
    if judge is None:
        since = (number and _float(watched[number - 1], "step")) or 0.0
        near = [one for one in trained if since < (_float(one, "step") or 0.0) <= (step or 0.0)]
        ratings = [rating for one in near if (rating := _float(one, "reward/judge")) is not None]
        judge = float(np.mean(ratings)) if ratings else None
    return None if step is None or judge is None or watch is None else _Point(step, judge, watch, math.hypot(*errors))


def _float(record: Record, name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else None


@contextmanager
def _named() -> Iterator[None]:
    """Errors of a role name it where it stands in the settings."""
    try:
        yield
    except AloeError as error:
        raise type(error)(str(error).replace("roles.", "rl.watch.roles.")) from None
