"""Requests of any content to the page of the packaged model, over real HTTP."""

import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys

from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.support.processes import wait_until_it_listens

ROUTES = (
    *("/", "/config", "/gradio_api/run/segment", "/gradio_api/run/predict", "/gradio_api/queue/join"),
    *("/gradio_api/queue/data?session_hash=x", "/gradio_api/call/segment", "/gradio_api/upload", "/gradio_api/reset"),
    *("/gradio_api/file=", "/gradio_api/cancel", "/gradio_api/app_id", "/gradio_api/heartbeat/x", "/login", "/docs"),
    *("/gradio_api/stream/x", "/gradio_api/component_server", "/gradio_api/proxy=http://127.0.0.1:9/", "/static/../x"),
)
MARK = "a secret of this machine"


class Attack(Kind):
    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port = found.getsockname()[1]
        self._log, self._secret = folder / "log", folder / "secret.txt"
        self._secret.write_text(MARK)
        environment = os.environ | {"TMPDIR": str(folder), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "ahs_seg_jax", "demo", "--port", str(self._port), "--max-megapixels", "1"]
        with self._log.open("w") as file:
            self._server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        wait_until_it_listens(self._server, self._port, self._log)
        (self._uploads,) = folder.glob("ahs_seg_demo_*")
        self._example = str(self._uploads / "example_1.png")
        self._read = 0  # of the log

    def run(self, rng):
        path = mutations.pick(rng, ROUTES)
        if path.endswith("="):
            path += mutations.pick(
                rng, (self._example, str(self._secret), "/etc/passwd", f"{self._uploads}/../secret.txt", "")
            )
        if rng.random() < 0.1:
            path = mutations.change_bytes(path.encode(), rng).decode("latin-1")
        path = "".join(letter if letter.isprintable() and letter not in " \u00a0" else "%00" for letter in path)
        upload = {
            "path": mutations.pick(rng, (self._example, str(self._secret), "/etc/passwd", "http://127.0.0.1:9/x.png"))
        }
        body = {"data": [upload, "grass; sand", 0.6, 0], "fn_index": 0, "session_hash": "x"}
        data = mutations.json_text(mutations.change_json(body, rng) if rng.random() < 0.7 else body, rng)
        method = mutations.pick(rng, ("GET", "POST", "POST", "POST", "PUT", "HEAD"))
        status, text = self._ask(method, path, data if method != "GET" else None)
        told = self._log.read_text(errors="replace")[self._read :]
        self._read += len(told)
        if MARK in text or "root:x:" in text:
            raise Silent(f"{method} {path} read another file")
        if status >= 500 or "Traceback" in told:
            raise RuntimeError(f"{method} {path} {data[:200]!r}: {status} {told[-200:] or text[:200]}")

    def _ask(self, method, path, data):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=25)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path.encode("ascii", "replace").decode(), data, headers)
            answer = connection.getresponse()
            if "heartbeat" in path or "queue/data" in path:  # they stay open
                return answer.status, ""
            return answer.status, answer.read(10**6).decode(errors="replace")
        except http.client.InvalidURL:
            return 400, ""
        except (ConnectionError, http.client.RemoteDisconnected):
            if self._server.poll() is not None:
                raise RuntimeError("the page is gone") from None
            return 400, ""
        finally:
            connection.close()

    def close(self):
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(30)
        except subprocess.TimeoutExpired:
            self._server.kill()
