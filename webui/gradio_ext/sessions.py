"""Sessions that begin empty: Gradio describes every component of the page anew for each visitor and each API call."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
from gradio.state_holder import SessionState, StateHolder


class LightSessions(StateHolder):
    """Sessions without the descriptions of components that did not change.

    Gradio keeps them for deep links, which this page has none of: with 500 components they cost 60 ms of the event
    loop, which everybody waits for, and 2 MB, for each call of the API, too. What an event changes is described then.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            nothing_listed = SimpleNamespace(default_config=self.blocks.default_config, blocks={})
            self.session_data[session_id] = SessionState(nothing_listed)
        return super().__getitem__(session_id)


def lighten_sessions(page: gr.Blocks) -> None:
    """Let the sessions of a page that was launched begin empty."""
    sessions = LightSessions()
    sessions.set_blocks(page)
    page.app.state_holder = sessions
