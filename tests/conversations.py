"""Small conversations for tests."""

from aloe_jax.conversation import Conversation, Persona, Turn

PERSONA = Persona(id="p0", profile="She grows herbs on a balcony.", personality="She is patient and dry.")


def conversation(turns: int = 3, name: str = "c0", continued: str = "prpr") -> Conversation:
    """A conversation of `turns` turns whose texts name their turn; `continued` is read as p/r per turn."""
    branch = {"p": "preferred", "r": "rejected"}
    return Conversation(
        id=name,
        persona=PERSONA,
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
