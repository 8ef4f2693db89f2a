"""How the page looks: a calm Gradio theme of our own colours, and the style sheet and script beside it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parents[1] / "assets"
#: Gradio's module with plotly in it, which its plots import when they get their first value; none if it is renamed.
PLOTLY = [*(Path(gr.__file__).parent / "templates" / "frontend" / "assets").glob("PlotlyPlot-*.js")]
INK = gr.themes.Color(
    "#f7f8f8",
    "#eef0f0",
    "#dfe3e3",
    "#c6cccd",
    "#98a2a4",
    "#667275",
    "#4c585b",
    "#384346",
    "#242d30",
    "#171e20",
    "#0f1516",
)
LAKE = gr.themes.Color(
    "#eefbf8",
    "#d3f4ec",
    "#a9e8da",
    "#74d6c3",
    "#40bba6",
    "#1f9c88",
    "#137a6b",
    "#116258",
    "#114e47",
    "#10403b",
    "#052522",
)


def theme() -> gr.themes.Base:
    """The theme, light and dark, in fonts that every system has: nothing is fetched."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
    mono = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "monospace")
    base = gr.themes.Base(
        primary_hue=LAKE, secondary_hue=LAKE, neutral_hue=INK, radius_size="lg", font=sans, font_mono=mono
    )
    return base.set(
        body_background_fill="#f4f5f3",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="#e6eaea",
        body_text_color_subdued="#566164",
        body_text_color_subdued_dark="#a3aeb0",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#171e20",
        background_fill_secondary="#f4f5f3",
        background_fill_secondary_dark="#1d2528",
        border_color_primary="#e0e3e1",
        border_color_primary_dark="#2c3639",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_size="*text_sm",
        block_title_text_weight="600",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        input_background_fill="#ffffff",
        input_background_fill_dark="#11181a",
        input_border_color="#cfd5d3",
        input_border_color_dark="#374346",
        input_border_width="1px",
        input_placeholder_color="#6d787b",
        input_placeholder_color_dark="#8a9698",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_300",
        button_primary_background_fill_hover_dark="*primary_200",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#06201d",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#222b2e",
        button_secondary_background_fill_hover_dark="#2b3639",
        button_secondary_border_color="#cfd5d3",
        button_secondary_border_color_dark="#374346",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        layout_gap="14px",
    )


def head() -> str:
    """The scripts and the icon, inline: no further request, and no file that could be scaled or fetched by anyone."""
    icon = (ASSETS / "icon.svg").read_text("utf-8").replace("#", "%23").replace("\n", "").replace('"', "'")
    scripts = "".join(
        f"<script>{(ASSETS / name).read_text('utf-8')}</script>" for name in ("page.js", "settings.js", "curve.js")
    )
    early = "".join(f'<script>sigmalab.early("assets/{each.name}")</script>' for each in PLOTLY)
    return f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml,{icon}">\n{scripts}{early}'
