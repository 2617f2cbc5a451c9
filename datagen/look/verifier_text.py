"""What the card says of the verifier's preferences: length, position, and what was given up because of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from aloe_jax.conversation import Conversation
from datagen.look.biases import LengthBias, PositionBias, is_clear, length_bias, position_bias
from datagen.look.markdown import table
from datagen.look.shares import Share


def verifier_text(
    trees: Sequence[Conversation],
    planned: int | None = None,
    skipped: Mapping[str, int] | None = None,
    lost: Mapping[str, int] | None = None,
) -> str:
    """The section on what preferences go with besides the persona. The other arguments are those of `card`."""
    parts = ["## What the preferences go with", *_length(length_bias(trees)), *_position(position_bias(trees), lost)]
    if skipped is not None:
        parts += _skipped(len(trees), planned, skipped)
    return "\n\n".join(parts)


def _length(found: LengthBias) -> list[str]:
    if not found.unequal:
        return ["Length: there are no pairs of unequal length to compare."]
    first, last = found.by_turn[0], found.by_turn[-1]
    said = (
        f"Length: in {found.longer.written()} of the {found.unequal:,} pairs of unequal length (of {found.pairs:,}) "
        f"the preferred reply is the longer one; preferred replies have {found.preferred_words:.1f} words on average, "
        f"rejected ones {found.rejected_words:.1f}. 95% intervals know that conversations share profiles and "
        "personalities."
    )
    rows = [(turn, share.count, *_cells(share)) for turn, share in enumerate(found.by_turn, 1)]
    return [
        said,
        table(("turn", "unequal pairs", "longer one preferred", "95% interval"), rows),
        _lesson(found, first, last),
    ]


def _lesson(found: LengthBias, first: Share, last: Share) -> str:
    longer = found.longer
    if not is_clear(longer) and not any(map(is_clear, found.by_turn)):
        return "For training: length alone hardly says which reply is preferred."
    way = "longer" if longer.value > 0.5 else "shorter"

    def agreed(share: Share) -> float:
        return share.value if way == "longer" else 1 - share.value

    grows = ""
    if not math.isnan(first.value) and not math.isnan(last.value) and len(found.by_turn) > 1:
        grows = f" ({agreed(first):.0%} at the first turn, {agreed(last):.0%} at the last)"
    return (
        f"For training: always taking the {way} reply agrees with {agreed(longer):.0%} of these preferences{grows}, so "
        f"a model can lower its loss by writing {way} replies without inferring anything of the person. Read AL beside "
        "the length of replies, and compare with `dpo.loss: length_normalised`."
    )


def _noise(found: PositionBias) -> str:
    """What the bias means for the preferences that are in the data."""
    once = found.recorded - found.asked_twice
    if not found.asked_twice:
        return "a part of the preferences is noise, which asking in both orders takes out"
    if not once:
        return "pairs that it decided were given up, since all were asked about in both orders, and it is counted here"
    return f"of the {once:,} pairs that were asked about in one order a part is noise; in both orders it cancels out"


def _lost_pairs(lost: Mapping[str, int] | None) -> str:
    """Pairs that were redrawn in conversations that are not in the data. `lost`: by the position that was favoured."""
    if lost is None:
        return ""
    total, first = sum(lost.values()), lost.get("first", 0)
    return f", and {total:,} more in conversations that were given up ({first:,} times for it)" if total else ""


def _position(found: PositionBias, lost: Mapping[str, int] | None = None) -> list[str]:
    if not found.recorded:
        return ["Position: which reply the verifier read first is not recorded in this data."]
    part = "" if found.recorded == found.pairs else f" ({found.recorded:,} of {found.pairs:,} pairs record it)"
    said = (
        f"Position: {found.first.written()} of the verifier's answers went to the reply that it read first{part}; a "
        "verifier without a bias of position gives 50%, as the order is drawn at random."
    )
    if is_clear(found.first):
        said += f" This one has such a bias: {_noise(found)}."
    if found.asked_twice:
        said += (
            f" {found.asked_twice:,} pairs were asked about in both orders; before them {found.redrawn:,} pairs were "
            f"given up and drawn again because the two answers contradicted each other ({found.favoured_first:,} times "
            f"for the reply read first){_lost_pairs(lost)}."
        )
    else:
        said += " It was asked in one order only (`conversations.verify_twice` asks in both)."
    return [said]


def _skipped(written: int, planned: int | None, skipped: Mapping[str, int]) -> list[str]:
    lost = sum(skipped.values())
    of = "" if planned is None else f" of the {planned:,} planned"
    said = f"{written:,} conversations{of} are in the data; {lost:,} were given up"
    if not lost:
        return [f"{said}."]
    return [
        f"{said}, and what they would have said is missing from it:",
        table(("reason", "conversations"), Counter(skipped).most_common()),
    ]


def _cells(share: Share) -> tuple[str, str]:
    if math.isnan(share.value):
        return "\u2013", "\u2013"
    return f"{share.value:.1%}", "\u2013" if math.isnan(share.low) else f"{share.low:.1%} to {share.high:.1%}"
