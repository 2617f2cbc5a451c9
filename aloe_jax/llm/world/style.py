"""The four axes of style in the simulated world: in a personality, in the user's talk, in a reply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pole:
    """One end of an axis: `traits` stand in personalities, `signs` in user messages, `replies` in replies."""

    traits: tuple[str, ...]
    signs: tuple[str, ...]
    replies: tuple[str, ...]


# Each axis has its own place in a reply: warmth opens it, pace leads the suggestion, company ends the
# suggestion, humour closes the reply.
AXES: dict[str, tuple[Pole, Pole]] = {
    "warmth": (
        Pole(
            (
                "Warm and affectionate with everyone.",
                "Greets people like old companions.",
                "Openly tender and full of praise.",
                "Shows feelings freely and gladly.",
                "Gentle, caring and quick to comfort.",
            ),
            ("Thank you, dear!", "So lovely to chat!", "Big hugs!"),
            ("Happy to help, dear.", "What a lovely question!", "Bless you, dear."),
        ),
        Pole(
            (
                "Matter-of-fact and sober in tone.",
                "Prefers plain facts to sentiment.",
                "Keeps feelings out of conversation.",
                "Dry, direct and brief.",
                "Likes answers short and factual.",
            ),
            ("Facts only.", "A straight answer, please.", "No small talk."),
            ("Short answer.", "The facts.", "To the point."),
        ),
    ),
    "pace": (
        Pole(
            (
                "Spontaneous and ready for anything.",
                "Acts on impulse and improvises.",
                "Decides at the last minute.",
                "Hates schedules and follows whims.",
                "Leaves every day open.",
            ),
            ("I never plan ahead.", "Surprise me!", "Today is wide open."),
            ("just go for", "jump right into", "drop everything for"),
        ),
        Pole(
            (
                "Plans everything well in advance.",
                "Loves lists, calendars and order.",
                "Organised and methodical in all matters.",
                "Never starts without preparation.",
                "Likes a fixed schedule.",
            ),
            ("I keep a calendar.", "Lists calm me.", "I decide weeks before."),
            ("plan ahead for", "set a date for", "put on your list"),
        ),
    ),
    "company": (
        Pole(
            (
                "Outgoing and happiest in a group.",
                "Draws energy from crowds.",
                "Talkative and always surrounded by people.",
                "Seeks company at every chance.",
                "Sociable and easily bored alone.",
            ),
            ("The whole gang is here.", "My house is full again.", "Crowds give me energy."),
            ("with friends", "with the whole gang", "in good company"),
        ),
        Pole(
            (
                "Solitary and content with silence.",
                "Recharges in quiet rooms.",
                "Reserved, needs much time apart.",
                "Avoids gatherings whenever possible.",
                "Happiest with nobody around.",
            ),
            ("I need quiet time.", "My phone stays off.", "Silence suits me."),
            ("by yourself", "on your own", "all alone"),
        ),
    ),
    "humour": (
        Pole(
            (
                "Playful and fond of silly jokes.",
                "Laughs easily, even about mishaps.",
                "Teases and loves wordplay.",
                "Finds humour in everything.",
                "Never takes life too seriously.",
            ),
            ("Ha ha!", "Tell me a joke!", "Life is silly."),
            ("Wear a silly hat!", "Giggling is allowed!", "Cue the trumpets!"),
        ),
        Pole(
            (
                "Serious and rarely amused.",
                "Earnest about every matter.",
                "Dislikes jokes and irony.",
                "Thoughtful, solemn and sincere.",
                "Weighs each word with gravity.",
            ),
            ("No jokes, please.", "This matters to me.", "I am in earnest."),
            ("It deserves real care.", "Take it seriously.", "This truly matters."),
        ),
    ),
}

# Wording that expresses neither pole. Company and humour have none: they are left out.
NEUTRAL_OPENERS = ("Sure.", "Okay.", "Well then.")
NEUTRAL_LEADS = ("try", "consider", "maybe try")

# Traits that influence nothing: they make personalities differ, and inference harder.
FLAVOURS = (
    "Curious about history.",
    "Stubborn in arguments.",
    "Generous with money.",
    "Patient with children.",
    "Afraid of heights.",
    "Proud of good manners.",
    "Superstitious about numbers.",
    "Easily moved by art.",
    "Honest to a fault.",
    "Forgetful with names.",
    "Competitive at cards.",
    "Careful with savings.",
    "Loyal to old habits.",
    "Nostalgic about school.",
    "Tidy at home.",
    "Ambitious in secret.",
    "Skeptical of experts.",
    "Humble about success.",
    "Restless in winter.",
    "Brave in emergencies.",
)
