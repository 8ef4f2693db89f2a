"""The tab txt2img: pictures from words."""

from __future__ import annotations

from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench, build_workbench


def build_txt2img(page: Page) -> Workbench:
    """Build the tab's content."""
    return build_workbench(page, "txt2img")
