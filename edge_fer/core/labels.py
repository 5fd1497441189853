"""The seven classes of the project, in the one order that every file of ours uses."""

from __future__ import annotations

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Alphabetical, which is also what a sorted listing of FER-2013's class folders gives."""

ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "happyness": "happy",
    "joy": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Spellings that published datasets use for the same classes."""


def canonical(name: str) -> str | None:
    """Return the project's spelling of a class name, or ``None`` when it is not one of the seven."""
    lowered = name.strip().lower()
    lowered = ALIASES.get(lowered, lowered)
    return lowered if lowered in EMOTIONS else None
