"""The page's own theme: bundled IBM Plex in the two weights that are complete, calm neutrals, blue
and orange of the figures.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors
from gradio.themes.utils.fonts import LocalFont

SANS_FILES = {
    bold: f"static/fonts/IBMPlexSans/IBMPlexSans-{'Bold' if bold else 'Regular'}.woff2"
    for bold in (False, True)
}
"""By whether it is bold, the file of the page's own font: its address there, and its place below
gradio's `templates/frontend`.
"""

BLUE = colors.Color(
    name="svl-blue",
    c50="#eef6fb",
    c100="#d8eaf6",
    c200="#b1d5ec",
    c300="#7fbade",
    c400="#4a9ccd",
    c500="#1f83bd",
    c600="#0072B2",
    c700="#00609a",
    c800="#004d7c",
    c900="#003d62",
    c950="#00263d",
)
SLATE = colors.Color(
    name="svl-slate",
    c50="#f7f8fa",
    c100="#eef0f4",
    c200="#dfe3ea",
    c300="#c5ccd6",
    c400="#98a2b0",
    c500="#6a7484",
    c600="#4d5665",
    c700="#383f4c",
    c800="#232934",
    c900="#161b24",
    c950="#0e1219",
)


def theme() -> gr.themes.Base:
    """The page's theme, light and dark, contrast AA for text and buttons."""
    base = gr.themes.Base(
        primary_hue=BLUE,
        secondary_hue=BLUE,
        neutral_hue=SLATE,
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
        text_size="md",
        spacing_size="md",
        radius_size="lg",
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_border_width="1px",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_300",
        button_primary_background_fill_hover_dark="*primary_200",
        button_primary_text_color="white",
        button_primary_text_color_dark="*neutral_950",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_border_width="1px",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
