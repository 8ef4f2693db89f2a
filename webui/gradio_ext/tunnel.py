"""The public link: Gradio's tunnel, opened after the page so that a missing network never delays or ends it."""

from __future__ import annotations

from urllib.parse import urlparse

import gradio as gr


def open_tunnel(page: gr.Blocks) -> tuple[str | None, str]:
    """A public link to a launched page, or None and the plain reason why there is none."""
    from gradio import networking, tunneling

    try:
        address = networking.setup_tunnel("127.0.0.1", page.server_port, page.share_token, None, None)
    except tunneling.ChecksumMismatchError:
        # The downloaded program is not the published one, and it would be run unchecked next time.
        _remove(tunneling.BINARY_PATH)
        return None, "the downloaded tunnel program was not the expected one and was removed; try again"
    except Exception as error:
        cause = error.__cause__ or error
        return None, f"no tunnel could be opened ({_first_line(error)}; {_first_line(cause)}). Is this machine online?"
    # Known to the page, the tunnel is closed with it.
    page.share_url = urlparse(address)._replace(scheme="https").geturl()
    return page.share_url, ""


def _remove(path: str) -> None:
    from pathlib import Path

    Path(path).unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
