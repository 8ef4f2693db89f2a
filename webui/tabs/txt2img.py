"""The tab txt2img: pictures from words."""

from __future__ import annotations

from ..form.workbench import Workbench, build_workbench
from ..shared import Page


def build_txt2img(page: Page) -> Workbench:
    """Build the tab's content."""
    return build_workbench(page, "txt2img")
