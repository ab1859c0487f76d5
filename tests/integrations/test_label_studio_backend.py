"""The Label Studio backend by its protocol, with a stand-in for Label Studio that holds the images."""

import http.server
import json
import threading
import urllib.error

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import HTTPException

from tests.support.halves import CONFIDENCE, LEFT, HalvesSegmenter
from tests.support.serving import png

CONFIG = """<View><Image name="photo" value="$picture"/><BrushLabels name="brush" toName="photo">
<Label value="grass"/><Label value="red toy, ball"/><Label value="sand"/></BrushLabels></View>"""
NAMES = ("grass", "red toy, ball", "sand")
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8)


@pytest.fixture(scope="module")
def backend():
    from integrations import label_studio_backend

    return label_studio_backend


@pytest.fixture
def studio(monkeypatch):
    """Serves one image to who has the key, and leads elsewhere from another address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
            elif self.headers["Authorization"] == "Token secret" and self.path == "/data/upload/1/a.png":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(png(IMAGE))
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("LABEL_STUDIO_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def unpacked(rle, size):
    """A mask of thi.ng's packed runs, by their definition; the first of the four channels."""
    bits = np.unpackbits(np.array(rle, np.uint8))
    place = 0

    def take(width):
        nonlocal place
        value = int("".join(map(str, bits[place : place + width])), 2)
        place += width
        return value

    count, width, lengths, values = take(32), take(5) + 1, [], []
    sizes = [take(4) + 1 for _ in range(4)]
    while len(values) < count:
        is_run = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(width)] * length if is_run else [take(width) for _ in range(length)]
        lengths.append(length)
    return np.array(values).reshape(*size, 4)[..., 0] > 0


def test_the_protocol(backend, studio, monkeypatch):
    monkeypatch.setattr(backend, "segmenter", HalvesSegmenter())
    assert backend.health()["status"] == "UP"
    assert backend.setup({"project": "1.2", "schema": CONFIG}) == {"model_version": "ahs_seg_jax"}
    tasks = [{"id": 5, "data": {"picture": "/data/upload/1/a.png"}}]
    answer = json.loads(json.dumps(backend.predict({"tasks": tasks, "label_config": CONFIG})))
    (prediction,) = answer["results"]
    assert prediction["score"] == pytest.approx((20 * LEFT + 21 * CONFIDENCE) / 41, abs=1e-4)
    assert {(region["from_name"], region["to_name"]) for region in prediction["result"]} == {("brush", "photo")}
    labels = np.full((37, 41), -1)
    for region in prediction["result"]:
        assert (region["original_height"], region["original_width"], region["type"]) == (37, 41, "brushlabels")
        (name,) = region["value"]["brushlabels"]
        labels[unpacked(region["value"]["rle"], (37, 41))] = NAMES.index(name)
    np.testing.assert_array_equal(labels, [[0] * 20 + [2] * 21] * 37)


def test_paths_are_those_of_the_protocol(backend):
    paths = backend.app.openapi()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {
        "/": {"get"},
        "/health": {"get"},
        "/setup": {"post"},
        "/predict": {"post"},
        "/webhook": {"post"},
    }


def test_images_come_from_label_studio_only(backend, studio):
    for address in ("http://169.254.169.254/latest", "//example.org/a.png", "file:///etc/passwd", "https://127.0.0.1/"):
        with pytest.raises(HTTPException) as caught:
            backend.fetched(address)
        assert caught.value.detail == "The image is not at LABEL_STUDIO_URL; import it into Label Studio."
    with pytest.raises(urllib.error.HTTPError, match="302"):
        backend.fetched("/elsewhere")


@pytest.mark.parametrize("config", ["", "<View/>", "<View><Image name='a' value='$b'/><BrushLabels name='c'/></View>"])
def test_what_an_interface_lacks_is_said(backend, config):
    with pytest.raises(HTTPException) as caught:
        backend.setup({"schema": config})
    assert caught.value.detail == "The interface needs an Image, and BrushLabels with its name as toName."
