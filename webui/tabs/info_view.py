"""What PNG Info shows, as HTML: every word of it comes from a file of a stranger and is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

from ..records.offer import Offer
from ..records.replay import Verdict

LONGEST = 4_000  # characters of a value that are shown
NOTHING = "<p class='line'>Drop a PNG, JPEG or WebP here: its settings are read, shown, and sent to a form.</p>"


def offer_html(offer: Offer) -> str:
    """A picture's settings, and what of them could not be matched."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value[:LONGEST])}{'…' if len(value) > LONGEST else ''}</dd></div>"
        for name, value in offer.rows
    )
    copy = (
        f'<button type="button" class="copy" data-copy="{escape(offer.text, quote=True)}">Copy as text</button>'
        if offer.text
        else ""
    )
    head = f"<p class='made-by'>Made by <strong>{escape(offer.program)}</strong>{copy}</p>"
    return f"<section class='facts'>{head}{unmatched_html(offer.missing, offer.notes)}<dl>{rows}</dl></section>"


def unmatched_html(missing: Iterable[str], notes: Iterable[str]) -> str:
    """What is missing here, as a problem, and what else could not be matched; empty if all could."""
    missing, notes = tuple(missing), tuple(notes)
    parts = [f"<p class='line problem' role='alert'>{escape(each)}</p>" for each in missing]
    if notes:
        parts.append("<p class='unmatched'>Not matched:</p><ul class='unmatched'>")
        parts += [f"<li>{escape(each)}</li>" for each in notes]
        parts.append("</ul>")
    return "".join(parts)


def sent_html(program: str, missing: Iterable[str], notes: Iterable[str]) -> str:
    """What a form says after settings were sent to it."""
    head = f"<p class='line' role='status'>The settings of the picture by {escape(program)} are in the form.</p>"
    return head + unmatched_html(missing, notes)


def verdict_html(verdict: Verdict, jpeg: bytes) -> str:
    """How a replay turned out, and the picture that it made."""
    said = str(verdict)
    kind = "equal" if verdict.equal else "differs"
    data = base64.b64encode(jpeg).decode("ascii")
    picture = "" if verdict.equal else f"<img src='data:image/jpeg;base64,{data}' alt='The picture made again'>"
    return f"<div class='verdict {kind}' role='status'><p><strong>Replay: </strong>{escape(said)}.</p>{picture}</div>"
