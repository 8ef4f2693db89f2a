"""The rows of the table that the evaluation prints, as Markdown."""

from __future__ import annotations

import torch


def show(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def share(*hits: torch.Tensor) -> str:
    return " / ".join(f"{100 * hit.float().mean():.1f} %" for hit in hits)


def count(*hits: torch.Tensor) -> str:
    return " / ".join(str(int(hit.sum())) for hit in hits) + f" of {len(hits[0])}"
