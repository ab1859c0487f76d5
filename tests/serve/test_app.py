"""The server's answers and refusals over real HTTP, with a model that names the halves of an image."""

import io
import json
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")

from ahs_seg_jax.admission import Hosts
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import Segmentation
from ahs_seg_jax.serve.app import build
from ahs_seg_jax.serve.limits import Limits
from tests.support.serving import Running, error_of, form

LIMITS = Limits(upload_mb=1, megapixels=0.01, classes=3, upload_seconds=0.5, seconds=1.5, waiting=2)
KEY = "a key of the tests, which is long"
IMAGE = np.zeros((4, 6, 3), np.uint8)


class Halves:
    """The left half is the first name, the right half the last one; `hold` keeps the model busy."""

    def __init__(self):
        self.hold, self.calls, self.begun = threading.Event(), [], 0
        self.hold.set()

    def __call__(self, images, words):
        self.begun += 1
        assert self.hold.wait(30)
        self.calls.append((len(images), words))
        if words.names[0] == "unreadable":
            raise ValueError("name 1 has more words than the model takes")
        if words.names[0] == "broken":
            raise OSError("/secret/path is full")
        return [self.one(image, words) for image in images]

    def one(self, image, words):
        labels = np.zeros(image.shape[:2], np.int32)
        labels[:, image.shape[1] // 2 :] = len(words.names) - 1
        return Segmentation(image, labels, words.names, np.full(labels.shape, 0.75, np.float32))


@pytest.fixture(scope="module")
def served():
    model = Halves()
    running = Running(build(model, LIMITS, Hosts.of("127.0.0.1", ["seg.example.org"]), "A test."), LIMITS)
    running.model = model
    yield running
    model.hold.set()
    running.stop()


def test_index_png(served):
    status, headers, body = served.segment(IMAGE, names="cat; sofa, couch")
    assert (status, headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(body)) as opened:
        assert json.loads(opened.text["class_names"]) == ["cat", "sofa, couch"]
    np.testing.assert_array_equal(label_files.read_mask(io.BytesIO(body)), [[0, 0, 0, 1, 1, 1]] * 4)


def test_run_length_codes(served):
    status, _, body = served.segment(IMAGE, names="cat\nsofa", format="rle")
    found = json.loads(body)
    assert (status, found["names"], found["height"], found["width"]) == (200, ["cat", "sofa"], 4, 6)
    masks = [label_files.decode_mask(entry["segmentation"]) for entry in found["annotations"]]
    np.testing.assert_array_equal(np.sum(masks, axis=0), np.ones((4, 6)))
    assert [entry["bbox"] for entry in found["annotations"]] == [[0, 0, 3, 4], [3, 0, 3, 4]]


def test_areas_and_polygons(served):
    _, _, body = served.segment(IMAGE, names="cat;sofa", format="areas")
    assert json.loads(body) == {
        "names": ["cat", "sofa"],
        "height": 4,
        "width": 6,
        "mean_confidence": 0.75,
        "classes": {"cat": {"pixels": 12, "share": 0.5}, "sofa": {"pixels": 12, "share": 0.5}},
    }
    pytest.importorskip("rasterio")
    status, headers, body = served.segment(IMAGE, names="cat;sofa", format="polygons")
    features = json.loads(body)["features"]
    assert (status, headers["content-type"]) == (200, "application/geo+json")
    assert [feature["properties"] for feature in features] == [
        {"name": "cat", "index": 0},
        {"name": "sofa", "index": 1},
    ]
    corners = features[1]["geometry"]["coordinates"][0]
    assert {tuple(corner) for corner in corners} == {(3.0, 0.0), (6.0, 0.0), (6.0, 4.0), (3.0, 4.0)}


def test_unknown_is_handed_on(served):
    for text, meant in (("none", "none"), ("0.25", 0.25), ("wall; sky", ("wall", "sky"))):
        assert served.segment(IMAGE, names="cat", unknown=text)[0] == 200
        assert served.model.calls[-1][1].unknown == meant


def bomb():
    """A small PNG of 30,000 x 30,000 pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(3751 * 3000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "fields", "status", "sentence"),
    [
        (b"no image", {}, 422, "The image is not an image that can be read (JPEG, PNG"),
        (b"", {}, 422, "The image: the file is empty; copy or download it again"),
        (np.zeros((101, 101, 3)), {}, 413, "The image has 101 x 101 pixels; this server takes 0.01 megapixels"),
        (bomb(), {}, 413, "The image has 30000 x 30000 pixels; this server takes 0.01 megapixels: reduce it."),
        (bytes(2**20 + 1), {}, 413, "The image has 1048577 bytes; this server takes 1048576: reduce it."),
        (None, {}, 422, "image: Field required."),
        (IMAGE, {"names": None}, 422, "names: Field required."),
        (IMAGE, {"names": " ;; "}, 422, "There are no names: separate them by ';'"),
        (IMAGE, {"names": "a;b;c;d"}, 422, "These are 4 names; this server takes 3: remove some."),
        (IMAGE, {"names": "a;b", "unknown": "c; d"}, 422, "These are 4 names; this server takes 3: remove some."),
        (IMAGE, {"names": "x" * 301}, 422, "A name has 301 letters; this server takes 300: shorten it."),
        (IMAGE, {"names": "a", "unknown": "1.5"}, 422, "unknown is 1.5; as a probability it must lie within 0..1."),
        (IMAGE, {"names": "a", "unknown": "nan"}, 422, "unknown is nan; as a probability it must lie within 0..1."),
        (IMAGE, {"names": "a", "format": "bmp"}, 422, "format: Input should be 'png', 'rle', 'polygons' or 'areas'."),
        (IMAGE, {"names": "unreadable"}, 422, "name 1 has more words than the model takes"),
        (IMAGE, {"names": "broken"}, 500, "This image could not be segmented (OSError); the server's log says more."),
    ],
)
def test_refusals_are_one_sentence(served, image, fields, status, sentence):
    found, _, body = served.segment(image, **({"names": "cat"} | fields))
    assert (found, error_of(body)[: len(sentence)]) == (status, sentence)
    assert b"Traceback" not in body
    assert b"/" not in body.replace(b"and/or", b"")  # no path of this machine


def test_who_may_ask(served):
    body, kind = form(IMAGE, names="cat")
    for headers, status in (
        ({"Host": "evil.example.org"}, 421),
        ({"Host": "seg.example.org"}, 200),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": f"http://127.0.0.1:{served.port}"}, 200),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": str(2**30)}, 413),
    ):
        sent = b"" if status in (411, 413) else body
        found, _, answer = served.ask("POST", "/segment", sent, **({"Content-Type": kind} | headers))
        assert found == status, answer
    for method, path, status in (
        ("GET", "/etc/passwd", 404),
        ("GET", "/page/../../etc/passwd", 404),
        ("GET", "/page/%2e%2e/%2e%2e/core.py", 404),
        ("GET", "/segment", 405),
        ("DELETE", "/health", 411),
        ("GET", "/redoc", 404),
    ):
        found, _, answer = served.ask(method, path)
        assert (path, found) == (path, status)
        error_of(answer)


def test_health_metrics_and_the_page(served):
    assert json.loads(served.ask("GET", "/health")[2])["status"] == "ok"
    served.segment(IMAGE, names="cat")
    text = served.ask("GET", "/metrics")[2].decode()
    for line in ('ahs_seg_requests_total{path="/segment",status="200"} ', 'ahs_seg_images_together_bucket{le="1.0"} '):
        assert float(text.partition(line)[2].partition("\n")[0]) >= 1
    assert "ahs_seg_waiting 0.0\n" in text
    assert "process_resident_memory_bytes" in text
    schema = json.loads(served.ask("GET", "/openapi.json")[2])
    assert set(schema["paths"]) == {"/segment", "/health", "/metrics"}
    assert {"200", "408", "413", "422", "429", "504"} <= set(schema["paths"]["/segment"]["post"]["responses"])
    status, headers, page = served.ask("GET", "/docs")
    assert (status, b"http://" in page, b"https://" in page) == (200, False, False)
    assert "default-src 'self'" in headers["content-security-policy"]
    assert len(served.ask("GET", "/page/swagger-ui-bundle.js")[2]) > 10**6
    assert served.ask("GET", "/")[0] == 307


def in_threads(count, ask):
    answers = [None] * count

    def one(number):
        answers[number] = ask(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_queue_and_a_late_answer(served):
    served.model.hold.clear()
    threads, answers = in_threads(2, lambda number: served.segment(IMAGE, names="cat"))
    wait_for(lambda: served.app.server._inside == 2)
    status, headers, body = served.segment(IMAGE, names="cat")
    assert (status, headers["retry-after"]) == (429, "5")
    assert error_of(body) == "2 requests are being answered already; ask again in a few seconds."
    assert served.ask("GET", "/health")[0] == 200
    for thread in threads:
        thread.join()
    assert [status for status, *_ in answers] == [504, 504]
    assert error_of(answers[0][2]) == "The answer took longer than 1.5 s: try a smaller image."
    served.model.hold.set()
    assert served.segment(IMAGE, names="cat")[0] == 200


def test_a_client_that_goes_away_gives_its_place_back(served):
    served.model.hold.clear()
    calls, begun = len(served.model.calls), served.model.begun
    body, kind = form(IMAGE, names="cat")
    head = f"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    clients = [served.raw(head.encode() + body) for _ in range(2)]
    wait_for(lambda: served.app.server._inside == 2 and served.model.begun == begun + 1)
    for client in clients:
        client.close()
    wait_for(lambda: served.app.server._inside == 0)
    served.model.hold.set()
    assert served.segment(IMAGE, names="cat")[0] == 200
    assert len(served.model.calls) == calls + 2  # the one that was at work already, and this one


def received(client, words):
    """What a socket brings up to these words, which may come in parts. Fails if it closes without them."""
    answer = b""
    while words not in answer:
        more = client.recv(10000)
        assert more, f"{answer!r} does not hold {words!r}"
        answer += more
    return answer


def test_slow_and_malicious_clients_block_nobody(served, monkeypatch):
    body, kind = form(IMAGE, names="cat")
    head = f"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    half_open = [served.raw() for _ in range(100)]
    half_heads = [served.raw(head.encode()[:20]) for _ in range(20)]
    slow = [served.raw(head.encode() + body[:10]) for _ in range(20)]
    huge = served.raw(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * 2**20)
    started = time.monotonic()
    assert served.segment(IMAGE, names="cat")[0] == 200
    assert time.monotonic() - started < 2
    with slow[0] as client:
        answer = received(client, b"The upload took longer than 0.5 s.")
        assert answer.startswith(b"HTTP/1.1 408 ")
    with huge as client:
        answer = received(client, b"This is no HTTP request that is understood.")
        assert answer.startswith(b"HTTP/1.1 400 ")
    with served.raw(b"\x16\x03\x01 no http\r\n\r\n") as client:
        assert client.recv(10000).startswith(b"HTTP/1.1 400 ")
    for client in (*half_open, *half_heads, *slow):
        client.close()
    assert served.segment(IMAGE, names="cat")[0] == 200


def test_a_key(monkeypatch):
    running = Running(build(Halves(), LIMITS, Hosts.of("127.0.0.1"), "", frozenset({KEY})), LIMITS)
    try:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer "}):
            status, answered, body = running.segment(IMAGE, headers, names="cat")
            assert (status, answered["www-authenticate"]) == (401, "Bearer")
            assert error_of(body) == "This server needs a key: send the header 'Authorization: Bearer KEY'."
        assert running.segment(IMAGE, {"Authorization": f"Bearer {KEY}"}, names="cat")[0] == 200
        assert running.ask("GET", "/metrics")[0] == 401
        assert running.ask("GET", "/metrics", Authorization=f"bearer {KEY}")[0] == 200
        assert running.ask("GET", "/health")[0] == running.ask("GET", "/docs")[0] == 200
    finally:
        running.stop()
