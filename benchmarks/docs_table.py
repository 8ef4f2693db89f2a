"""Write a measured table between its two marks in a file of docs/."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write_table(name: str, mark: str, text: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->` in docs/`name`."""
    file = DOCS / name
    before, rest = file.read_text("utf-8").split(f"<!-- {mark} -->\n")
    _, after = rest.split(f"<!-- /{mark} -->")
    file.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}", "utf-8")
