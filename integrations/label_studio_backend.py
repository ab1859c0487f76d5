"""Label Studio: an ML backend, which paints brush masks for the names of a project's labelling interface.

    pip install 'ahs_seg_jax[serve]'
    LABEL_STUDIO_URL=http://127.0.0.1:8080 LABEL_STUDIO_API_KEY=... MODEL=runs/vitb \\
        uvicorn integrations.label_studio_backend:app --port 9090

In Label Studio: Settings > Model > Connect Model, the address of this server. The project's interface needs an `Image`
and `BrushLabels` for it; the words are the labels' values. It speaks the protocol of label-studio-ml (`/health`,
`/setup`, `/predict`, `/webhook`). Images are fetched from LABEL_STUDIO_URL only, whatever a task names.
"""

import os
import urllib.parse
import urllib.request
from typing import Any
from xml.etree import ElementTree

from fastapi import FastAPI, HTTPException

from ahs_seg_jax.annotations import label_studio
from ahs_seg_jax.segmenter import Segmenter

VERSION = "ahs_seg_jax"
MOST_BYTES = 50 * 2**20  # of an image
SECONDS = 30.0  # that Label Studio may take to send it

app = FastAPI(title="ahs_seg_jax for Label Studio")
segmenter = Segmenter.from_pretrained(os.environ.get("MODEL", "tiny"))


@app.get("/")
@app.get("/health")
def health() -> dict[str, str]:
    """That the server is up."""
    return {"status": "UP", "model_class": "Segmenter"}


@app.post("/setup")
def setup(request: dict[str, Any]) -> dict[str, str]:
    """Takes a project's interface. Answers 422 with what is missing in it."""
    brushes_of(request.get("schema", ""))
    return {"model_version": VERSION}


@app.post("/webhook", status_code=201)
def webhook() -> dict[str, str]:
    """Events of a project: nothing is trained."""
    return {}


@app.post("/predict")
def predict(request: dict[str, Any]) -> dict[str, Any]:
    """A prediction for each task."""
    brush, image, field, names = brushes_of(request.get("label_config", ""))
    results = []
    for task in request.get("tasks", []):
        found = segmenter(fetched(str(task["data"][field])), names)
        prediction = label_studio.task("", found.labels, names, found.confidence, VERSION)["predictions"][0]
        for region in prediction["result"]:
            region |= {"from_name": brush, "to_name": image}
        results.append(prediction)
    return {"results": results, "model_version": VERSION}


def brushes_of(config: str) -> tuple[str, str, str, tuple[str, ...]]:
    """The names of an interface's BrushLabels and Image, the field of a task with the image, and the labels."""
    try:
        view = ElementTree.fromstring(config)
        brushes = next(view.iter("BrushLabels"))
        image = next(found for found in view.iter("Image") if found.get("name") == brushes.get("toName"))
        names = tuple(label.attrib["value"] for label in brushes.iter("Label"))
        return brushes.attrib["name"], image.attrib["name"], image.attrib["value"].lstrip("$"), names
    except (ElementTree.ParseError, StopIteration, KeyError) as error:
        raise HTTPException(422, "The interface needs an Image, and BrushLabels with its name as toName.") from error


def fetched(address: str) -> bytes:
    """The file at an address of Label Studio, such as `/data/upload/1/a.jpg`."""
    home = os.environ.get("LABEL_STUDIO_URL", "http://127.0.0.1:8080").rstrip("/") + "/"
    whole = urllib.parse.urljoin(home, address)
    if urllib.parse.urlsplit(whole)[:2] != urllib.parse.urlsplit(home)[:2]:
        raise HTTPException(422, "The image is not at LABEL_STUDIO_URL; import it into Label Studio.")
    key = os.environ.get("LABEL_STUDIO_API_KEY")
    request = urllib.request.Request(whole, headers={"Authorization": f"Token {key}"} if key else {})
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=SECONDS) as answer:
        data: bytes = answer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise HTTPException(422, f"The image has more than {MOST_BYTES} bytes.")
    return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """An answer that leads elsewhere is an error: the key is for one server."""
