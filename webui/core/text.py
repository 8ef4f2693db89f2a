"""Small pieces of English for errors and labels."""

from __future__ import annotations


def as_sentence(text: str) -> str:
    """The text with a capital letter and a full stop, as an error message on the page."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def title(name: str) -> str:
    """The name of a field or option as a label: "clip_skip" is "Clip skip"."""
    return name.replace("_", " ").strip().capitalize()
