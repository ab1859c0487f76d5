"""A server of the package in a thread of this process, and requests to it."""

import asyncio
import contextlib
import http.client
import io
import json
import socket
import threading

import numpy as np
from PIL import Image


class Running:
    """A server at `port`; `app` is what `build` returned."""

    def __init__(self, app, limits):
        import uvicorn

        from ahs_seg_jax.serve.run import configuration

        self.app = app
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._server = uvicorn.Server(configuration(app, limits))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._listener])))
        self._thread.start()

    def stop(self):
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self.app.server.close()

    def ask(self, method, path, body=None, **headers):
        """Status, headers and bytes of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def segment(self, image, headers=(), **fields):
        """As `ask`, of a form with an image: an array, or the bytes of a file."""
        body, kind = form(image, **fields)
        return self.ask("POST", "/segment", body, **{"Content-Type": kind}, **dict(headers))

    def raw(self, data=b"", timeout=20.0):
        """An open connection on which this was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(data)
        return connection


def form(image, **fields):
    """Body and type of a form; fields that are None are left out."""
    data = image if isinstance(image, bytes) else png(image)
    edge, parts = "----edge", []
    for name, value in fields.items():
        if value is not None:
            parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    if image is not None:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"


def png(image):
    file = io.BytesIO()
    if image is not None:
        Image.fromarray(np.asarray(image, np.uint8)).save(file, "PNG")
    return file.getvalue()


def error_of(body):
    """The sentence of a refusal."""
    found = json.loads(body)
    assert set(found) == {"error", "detail"}
    return found["error"]
