"""The page: its pieces, and which of them answers what. Gradio is used here only; `answers.py` has what is shown.

Nothing is fetched from elsewhere: fonts are the system's, and Gradio's reports about its use are switched off. Uploads
lie in a folder of their own that goes when the page is closed; `admission.py` says who may ask, and for which files.
"""

import pathlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from starlette.middleware import Middleware

from ahs_seg_jax import admission
from ahs_seg_jax.demo import answers, html
from ahs_seg_jax.demo.answers import Answer, Limits
from ahs_seg_jax.demo.bodies import Bodies, Fits
from ahs_seg_jax.demo.examples import Example
from ahs_seg_jax.pictures import png

TITLE = "Your image, your words"
STYLE = pathlib.Path(__file__).with_name("style.css")
FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
ALPHA = 0.6
FORGOTTEN_AFTER = 3600  # seconds that a result or an upload is kept
SESSIONS = 30  # visitors whose results are kept; the oldest are forgotten first
# What the page itself asks for. Gradio answers much more: it fetches addresses, lists sessions, edits its own code.
ROUTES = admission.Routes(
    whole=frozenset({"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt"})
    | {
        f"/gradio_api/{name}"
        for name in ("queue/join", "queue/data", "cancel", "reset", "startup-events", "app_id", "upload_progress")
    }
    | {"/gradio_api/run/predict", "/gradio_api/run/segment", "/gradio_api/call/segment", "/gradio_api/theme.css"},
    beginnings=("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/", "/gradio_api/call/segment/"),
    files=("/gradio_api/file=",),
    uploads=frozenset({"/gradio_api/upload"}),
)

Ask = Callable[[str | None, str, float, str], Answer]  # file, words, least confidence, the file's name for people


class _Page(gr.Blocks):
    """Gradio's page, to which only uploads are handed in as files, whatever a request says."""

    folder: pathlib.Path

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **options: Any) -> list[Any]:
        """As Gradio's, which would copy named files and fetch addresses before `segment` can refuse them."""
        pictures = [isinstance(block, gr.Image) for block in block_fn.inputs]
        for index, (value, is_picture) in enumerate(zip(inputs, pictures, strict=False)):  # Gradio counts them
            named = value if isinstance(value, dict) or value is None or not is_picture else {"path": None}
            inputs[index] = _only_uploads(named, self.folder)
        return await super().preprocess_data(block_fn, inputs, *others, **options)


def _only_uploads(value: Any, folder: pathlib.Path) -> Any:
    """The value with each file in it replaced by its checked path and its name; the path of any other file is None."""
    if isinstance(value, list):
        return [_only_uploads(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" in value or "url" in value:
        path = admission.uploaded_file(value.get("path"), folder)
        return {"path": path and str(path), "orig_name": admission.shown_name(value.get("orig_name"))}
    return {name: _only_uploads(item, folder) for name, item in value.items()}


def build(ask: Ask, examples: list[Example], limits: Limits, about: str, folder: pathlib.Path) -> _Page:
    """The page. `about` is a sentence about the model; the examples' images are written to `folder`."""
    files = [folder / f"example_{number}.png" for number in range(1, len(examples) + 1)]
    for file, example in zip(files, examples, strict=True):
        Image.fromarray(example.image).save(file)
    filled = [[str(file), "\n".join(example.names)] for file, example in zip(files, examples, strict=True)]
    with _Page(title=TITLE, analytics_enabled=False, delete_cache=(FORGOTTEN_AFTER, FORGOTTEN_AFTER)) as page:
        page.folder = folder
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

        def segment(upload: Any, words: Any, alpha: Any, least: Any) -> tuple[Any, ...]:
            found = _asked(ask, upload, words, alpha, least)
            if found.result is None:
                return html.message(found), None, None, html.table(found), None
            kept = answers.Kept.of(found.result)
            pictures = (_file(pixels, folder) for pixels in (kept.overlay(alpha), answers.confidence(found.result)))
            return html.message(found), *pictures, html.table(found), kept

        def recolour(kept: answers.Kept | None, alpha: float) -> str | None:
            return None if kept is None else _file(kept.overlay(alpha), folder)

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


def _file(pixels: np.ndarray, folder: pathlib.Path) -> str:
    """A picture as a file among those that Gradio serves and forgets, under a name that nobody can guess.

    Gradio would make it from the pixels itself, and compress it for longer than the model takes.
    """
    place = folder / secrets.token_hex(16)
    place.mkdir()
    file = place / "image.png"
    file.write_bytes(png.encode(pixels))
    return str(file)


def _asked(ask: Ask, upload: Any, words: Any, alpha: Any, least: Any) -> Answer:
    """The answer to values of a request, which need not be those that the page can send."""
    if not isinstance(words, str) or not all(map(_is_share, (alpha, least))):
        return Answer("Type words, and choose settings between 0 and 1.")
    if not upload:
        return ask(None, words, least, "")
    if not isinstance(upload, dict) or not upload.get("path"):
        return Answer(admission.UPLOADED_AGAIN)
    return ask(upload["path"], words, least, upload["orig_name"])


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _fits(block: Any) -> Fits:
    """Whether a value of a request could be that of an input; `segment` itself looks at words and files."""
    if isinstance(block, gr.Dataset):
        count = len(block.samples or ())
        return lambda value: value is None or (type(value) is int and 0 <= value < count)
    if isinstance(block, gr.Slider):
        return _is_share
    if isinstance(block, gr.State):  # it lies here
        return lambda value: value is None
    return lambda value: True


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


def serve(
    page: _Page,
    host: str,
    port: int,
    limits: Limits,
    open_browser: bool = False,
    allowed_hosts: Sequence[str] = (),
    wait: bool = True,
) -> None:
    """Shows the page until it is interrupted, or, unless it shall `wait`, in the background.

    `allowed_hosts` are the names besides `host` under which it may be reached. Raises OSError if the port is taken.
    """
    guard = Middleware(
        admission.Admission,
        hosts=admission.Hosts.of(host, allowed_hosts),
        routes=ROUTES,
        folder=page.folder,
        most_upload_bytes=(limits.upload_mb + 1) * 2**20,  # a file and what a form says around it
    )
    page.queue(max_size=32)
    queue: Any = page._queue
    send_message = queue.send_message

    def send_to_those_who_wait(event: Any, message: Any) -> None:
        # A client that asked and has gone would end Gradio's loop, and with it everybody's answers.
        if event.session_hash in queue.pending_messages_per_session:
            send_message(event, message)

    queue.send_message = send_to_those_who_wait
    bodies = Middleware(
        Bodies,
        functions={number: [_fits(block) for block in function.inputs] for number, function in page.fns.items()},
        names={str(function.api_name): number for number, function in page.fns.items() if function.api_name},
        sessions=queue.pending_messages_per_session,
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=open_browser,
        quiet=True,
        prevent_thread_lock=not wait,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [guard, bodies]},
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
