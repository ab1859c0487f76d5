"""Forms of any content to `ahs-seg serve`, over real HTTP, with the packaged model. Needs the extra serve."""

import http.client
import json
import pathlib

import numpy as np

from ahs_seg_jax.admission import Hosts
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.serve.app import build
from ahs_seg_jax.serve.limits import Limits
from ahs_seg_jax.serve.run import segment_with
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.support.serving import Running, form, png

LIMITS = Limits(upload_mb=1, megapixels=0.1, classes=8, upload_seconds=5, seconds=20)
PATHS = ("/segment",) * 12 + ("/", "/health", "/metrics", "/docs", "/openapi.json", "/page/x", "/../etc/passwd", "/x")
WORDS = (
    *("grass; sand", "grass", "", ";;;", "grass; Grass", "caf\u00e9; cafe\u0301", "<|endoftext|>", "a\x07", "x" * 400),
    *("{}", "grass;" * 50, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "../../x", "none"),
)
FORMATS = ("png", "rle", "polygons", "areas", "x", "", None)
UNKNOWN = ("none", "0", "1", "0.3", "nan", "-1", "inf", "grass", "wall; sky", "", None)


class Attack(Kind):
    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        segment = segment_with(Segmenter.from_pretrained("tiny"))
        self._running = Running(build(segment, LIMITS, Hosts.of("127.0.0.1"), "A test."), LIMITS)
        self._image = png(np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8))

    def run(self, rng):
        image = self._image if rng.random() < 0.5 else mutations.change_png(self._image, rng)
        fields = {"names": mutations.pick(rng, WORDS), "format": mutations.pick(rng, FORMATS)}
        fields["unknown"] = mutations.pick(rng, UNKNOWN)
        if rng.random() < 0.1:
            del fields[mutations.pick(rng, list(fields))]
        body, kind = form(image if rng.random() < 0.95 else None, **fields)
        if rng.random() < 0.3:
            body = mutations.change_bytes(body, rng)
        if rng.random() < 0.1:
            kind = mutations.change_bytes(kind.encode(), rng).decode("latin-1").replace("\r", "").replace("\n", "")
        path, method = mutations.pick(rng, PATHS), mutations.pick(rng, ("POST",) * 8 + ("GET", "PUT", "HEAD"))
        try:
            status, _, answer = self._running.ask(method, path, body, content_type=kind)
        except (ConnectionError, http.client.HTTPException):
            return  # it may close on whom it does not understand
        if status >= 500 and status != 501:  # 501: a library for polygons is not installed
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        if b"root:x:" in answer or str(pathlib.Path(__file__).parents[3]).encode() in answer:
            raise Silent(f"{method} {path} tells of this machine: {answer[:300]!r}")
        if status >= 400 and method != "HEAD" and not json.loads(answer).get("error"):
            raise Silent(f"{method} {path}: {status} without a word")

    def close(self):
        self._running.stop()
