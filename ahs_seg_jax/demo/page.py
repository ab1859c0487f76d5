"""The page: its pieces, and which of them answers what. All that is of Gradio is here; what is shown is in `answers.py`.

Nothing is fetched from elsewhere: fonts are the system's, and Gradio's reports about its use are switched off. Uploads
lie in a folder of their own that goes when the page is closed.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ahs_seg_jax.demo import answers, html
from ahs_seg_jax.demo.answers import Answer, Limits
from ahs_seg_jax.demo.examples import Example

TITLE = "Your image, your words"
STYLE = pathlib.Path(__file__).with_name("style.css")
FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
ALPHA = 0.6
FORGOTTEN_AFTER = 3600  # seconds that a result or an upload is kept

Ask = Callable[[str | None, str, float, str], Answer]  # file, words, least confidence, the file's name for people


def build(ask: Ask, examples: list[Example], limits: Limits, about: str, folder: pathlib.Path) -> gr.Blocks:
    """The page. `about` is a sentence about the model; the examples' images are written to `folder`."""
    files = [folder / f"example_{number}.png" for number in range(1, len(examples) + 1)]
    for file, example in zip(files, examples, strict=True):
        Image.fromarray(example.image).save(file)
    filled = [[str(file), "\n".join(example.names)] for file, example in zip(files, examples, strict=True)]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(FORGOTTEN_AFTER, FORGOTTEN_AFTER)) as page:
        gr.HTML(html.header(TITLE, f"Every pixel gets one of the words you type. {about}"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280):
                image, text, button = _question(filled, limits)
                with gr.Accordion("Settings", open=False):
                    alpha = gr.Slider(0, 1, ALPHA, step=0.05, label="Strength of the colours")
                    least = gr.Slider(0, 1, 0, step=0.05, label="Leave pixels unnamed below this confidence")
            with gr.Column(scale=8, min_width=360):
                message, overlay, confidence, table = _places_of_the_answer()
        result = gr.State(None, time_to_live=FORGOTTEN_AFTER)

        def segment(upload: dict[str, Any] | None, words: str, alpha: float, least: float) -> tuple[Any, ...]:
            path, name = (upload.get("path"), upload.get("orig_name")) if upload else (None, "")
            found = ask(path, words, least, name or "the image")
            pictures: tuple[Any, ...] = (None, None)
            if found.result is not None:
                pictures = (answers.overlay(found.result, alpha), answers.confidence(found.result))
            return html.message(found), *pictures, html.table(found), found.result

        def recolour(result: Any, alpha: float) -> np.ndarray | None:
            return None if result is None else answers.overlay(result, alpha)

        # Not preprocessed: Gradio would open the file itself, and a damaged one would end in an error without a cause.
        gr.on(
            [page.load, button.click, text.submit, image.change, least.release],
            segment,
            [image, text, alpha, least],
            [message, overlay, confidence, table, result],
            preprocess=False,
            concurrency_limit=1,  # one model
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )
        alpha.release(recolour, [result, alpha], overlay, show_progress="hidden", api_visibility="private")
    return page


def _question(filled: list[list[str]], limits: Limits) -> tuple[gr.Image, gr.Textbox, gr.Button]:
    """Image, words and button; `filled` are the examples' files and words, the first of which is there at the start."""
    image = gr.Image(
        filled[0][0],
        label="1. An image",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=280,
        buttons=[],
        elem_id="image",
    )
    text = gr.Textbox(
        filled[0][1],
        label="2. Words",
        info=f"One a line, synonyms after a comma, at most {limits.classes}. Shift + Enter segments.",
        lines=8,
        max_lines=16,
        elem_id="words",
        render=False,  # the examples, which fill it, stand above it
    )
    gr.Examples(
        filled,
        [image, text],
        label="Examples, drawn by this program",
        visible_columns=[0],
        api_visibility="private",
        elem_id="examples",
    )
    text.render()
    return image, text, gr.Button("Segment", variant="primary", elem_id="segment")


def _places_of_the_answer() -> tuple[gr.HTML, gr.Image, gr.Image, gr.HTML]:
    """Message, overlay, confidence, table."""
    message = gr.HTML(elem_id="message")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=340), gr.Tabs():
            with gr.Tab("Result"):
                overlay = _picture("overlay", "The image with each pixel in the colour of its word", ["download"])
            with gr.Tab("Confidence"):
                confidence = _picture("confidence", "How probable each pixel's word is, from 0 to 1", [])
        with gr.Column(scale=4, min_width=340):
            table = gr.HTML(elem_id="areas")
    return message, overlay, confidence, table


def serve(page: gr.Blocks, host: str, port: int, limits: Limits, open_browser: bool = False) -> None:
    """Shows the page until it is interrupted. Raises OSError if the port is taken."""
    page.queue(max_size=32).launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=open_browser,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        footer_links=[],
        max_file_size=limits.upload_mb * 2**20,
        theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css_paths=STYLE,
    )


def _picture(name: str, says: str, buttons: list[Any]) -> gr.Image:
    return gr.Image(
        show_label=False,
        interactive=False,
        format="png",
        buttons=buttons,
        alt_text=says,
        height=430,
        elem_id=name,
    )
