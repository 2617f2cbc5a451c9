"""Small conversations for tests."""

from aloe_jax.conversation import Conversation, Persona, Turn

PERSONA = Persona(id="p0", profile="She grows herbs on a balcony.", personality="She is patient and dry.")


def another(profile: int, personality: int = 0) -> Persona:
    """A persona of its own profile and personality."""
    return Persona(
        id=f"p{profile}-t{personality}",
        profile=f"She grows {profile} herbs on a balcony.",
        personality=f"She is patient and dry, {personality} times.",
    )


def conversation(
    turns: int = 3, name: str = "c0", continued: str = "prpr", profile: int | None = None, personality: int = 0
) -> Conversation:
    """A conversation of `turns` turns whose texts name their turn; `continued` is read as p/r per turn.

    `profile` and `personality`: those of `another`, where it is not PERSONA's.
    """
    branch = {"p": "preferred", "r": "rejected"}
    return Conversation(
        id=name,
        persona=PERSONA if profile is None else another(profile, personality),
        turns=[
            Turn(
                user=f"user words {name} {k}",
                preferred=f"good reply {name} {k}" + " more" * (k % 3),
                rejected=f"bad {k} reply",
                continued=branch[continued[k % len(continued)]],
                hinted="preferred" if k % 2 else "rejected",
            )
            for k in range(turns)
        ],
    )


def forked(name: str = "f0") -> Conversation:
    """A main line of three turns; the user also answers the other reply of the first turn, for two turns."""
    main, side = conversation(3, name), conversation(2, f"{name} side", continued="rp")
    first = side.turns[0].model_copy(update={"follows": 0, "after": "rejected"})
    return Conversation(id=name, persona=PERSONA, turns=[*main.turns, first, side.turns[1]])


def single_replies(name: str = "s0") -> Conversation:
    """Two turns with one reply each, as in plain chat data."""
    turns = [
        Turn(user=f"said {name} {k}", preferred=f"answer {k}", rejected=None, continued="preferred") for k in (0, 1)
    ]
    return Conversation(id=name, persona=PERSONA, turns=turns)
