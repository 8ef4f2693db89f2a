"""What PNG Info shows, as HTML: every word of it comes from a file of a stranger and is escaped."""

from __future__ import annotations

import base64
from html import escape

from webui.engine.replay import Verdict
from webui.importers.imported_settings import ImportedSettings
from webui.tabs.form.picture_actions import unmatched_html

LONGEST = 4_000  # characters of a value that are shown
NOTHING = "<p class='line'>Drop a PNG, JPEG or WebP here: its settings are read, shown, and sent to a form.</p>"


def offer_html(offer: ImportedSettings) -> str:
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


def verdict_html(verdict: Verdict, jpeg: bytes) -> str:
    """How a replay turned out, and the picture that it made."""
    said = str(verdict)
    kind = "equal" if verdict.equal else "differs"
    data = base64.b64encode(jpeg).decode("ascii")
    picture = "" if verdict.equal else f"<img src='data:image/jpeg;base64,{data}' alt='The picture made again'>"
    return f"<div class='verdict {kind}' role='status'><p><strong>Replay: </strong>{escape(said)}.</p>{picture}</div>"
