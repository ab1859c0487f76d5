"""Which requests a server of this program answers, and which files it reads for a client. Nothing of Gradio is here.

A page on this machine is reachable by every website that its user visits: a script there can send requests to it, and
a domain whose address is changed to this machine's (DNS rebinding) can read the answers as well. So the `Host` header
must name this server and the `Origin` header, where there is one, must be the page itself. A client names an upload by
its path; only regular files in the folder of uploads are opened, and the answers to every other path are the same,
whether there is such a file or not.
"""

import dataclasses
import ipaddress
import json
import os
import pathlib
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
EVERYWHERE = frozenset({"0.0.0.0", "::"})
MOST_JSON_BYTES = 2**20  # of a request that is no upload: words and settings
UPLOADED_AGAIN = "The image is not among the uploads of this page; upload it again."


def uploaded_file(path: object, folder: pathlib.Path) -> pathlib.Path | None:
    """The file that a client names by its absolute `path`, if it is a regular file below `folder`; else None.

    Nothing outside `folder` is looked at, so the time to an answer does not tell which files exist. No part of the path
    below `folder` may be `..` or a symbolic link.
    """
    if not isinstance(path, str) or "\0" in path:
        return None
    named, real = pathlib.PurePath(path), folder.resolve()
    for root in (folder, real):
        if named.is_relative_to(root) and named != root:
            parts = named.relative_to(root).parts
            break
    else:
        return None
    found = real
    for part in parts:
        found = found / part
        try:
            if part in ("..", ".") or found.is_symlink():
                return None
        except OSError:  # a name that is too long for the file system
            return None
    return found if found.is_file() else None


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The names under which a server may be addressed: `bound` is where it listens, `named` are further host names."""

    bound: str
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, bound: str, named: Iterable[str] = ()) -> "Hosts":
        """Raises ValueError for a name that holds more than a host."""
        cleaned = frozenset(name.lower().strip("[]").rstrip(".") for name in named)
        for name in cleaned:
            if not name or set(name) & set("/@*, ") or (":" in name and not _is_address(name)):
                raise ValueError(
                    f"{name!r} is no host name; give it without scheme and port, for example segment.example.org"
                )
        return cls(bound.lower().strip("[]"), cleaned)

    def allow(self, host: str | None) -> bool:
        """Whether a `Host` header names this server. The port is free: it may be forwarded from another one."""
        name = _name(host)
        if name is None:
            return False
        if name in self.named or name == self.bound:
            return True
        if self.bound in EVERYWHERE:
            # An address cannot be rebound to another machine, only a name can.
            return name in LOOPBACK or _is_address(name) or name == socket.gethostname().lower()
        return name in LOOPBACK and self.bound in LOOPBACK

    def same_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` is the one at `host`, or at a further name behind which a proxy serves it."""
        try:
            found = urlsplit(origin)
        except ValueError:
            return False
        if found.scheme not in ("http", "https") or not found.netloc:
            return False
        return found.netloc.lower() == host.lower() or _name(found.netloc) in self.named


def _name(host: str | None) -> str | None:
    """`Example.org:80` -> `example.org`, `[::1]:80` -> `::1`; None if it is no host."""
    if not host or set(host) & set("/@\\ ,?#"):
        return None
    try:
        found = urlsplit(f"//{host}")
        _ = found.port  # raises ValueError for what is no number
    except ValueError:
        return None
    return found.hostname.rstrip(".") if found.hostname else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Routes:
    """The paths that are served: whole ones, beginnings, and the beginnings after which a file's path follows."""

    whole: frozenset[str]
    beginnings: tuple[str, ...]
    files: tuple[str, ...] = ()
    uploads: frozenset[str] = frozenset()

    def serve(self, path: str, folder: pathlib.Path) -> bool:
        """Whether a request of this decoded `path` is answered; `folder` is that of the uploads."""
        for beginning in self.files:
            if path.startswith(beginning):
                return uploaded_file(path.removeprefix(beginning), folder) is not None
        return path in self.whole or path in self.uploads or path.startswith(self.beginnings)


class Admission:
    """An ASGI application in front of another: passes on what is allowed, and answers the rest with one sentence."""

    def __init__(
        self, app: App, hosts: Hosts, routes: Routes, most_upload_bytes: int, folder: pathlib.Path = pathlib.Path()
    ):
        """`folder` holds the uploads that routes of files name; a server without such routes has none."""
        self._app, self._hosts, self._routes, self._folder = app, hosts, routes, folder
        self._most_upload_bytes = most_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class. Only HTTP is served: a WebSocket is closed before it opens."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refused := self._refusal(scope)) is not None:
            await answer(send, *refused)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """HTTP status and sentence, or None if the request may pass."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        forwarded = [part.strip() for value in headers.get("x-forwarded-host", []) for part in value.split(",")]
        if len(hosts) != 1 or not all(map(self._hosts.allow, [*hosts, *forwarded])):
            return 421, "This server is not at that address; start it with --allowed-host NAME to be reached under it."
        reached = [*hosts, *forwarded]
        origins = headers.get("origin", [])
        if not all(any(self._hosts.same_origin(origin, host) for host in reached) for origin in origins):
            return 403, "Another site's page may not use this one."
        changes = scope["method"] not in ("GET", "HEAD")
        if changes and not origins and {"cross-site", "same-site"} & set(headers.get("sec-fetch-site", [])):
            return 403, "Another site's page may not use this one."
        if not self._routes.serve(scope["path"], self._folder):
            return 404, "There is nothing here."
        return self._too_large(headers, scope["path"]) if changes else None

    def _too_large(self, headers: dict[str, list[str]], path: str) -> tuple[int, str] | None:
        lengths = headers.get("content-length", [])
        if "transfer-encoding" in headers or len(lengths) != 1 or not lengths[0].isdecimal() or len(lengths[0]) > 18:
            return 411, "The request does not say how long it is."
        most = self._most_upload_bytes if path in self._routes.uploads else MOST_JSON_BYTES
        if int(lengths[0]) > most:
            return 413, f"The request is larger than the maximum allowed size of {most} bytes."
        return None


async def answer(send: Send, status: int, sentence: str) -> None:
    """Answers a request with this status and one sentence, as JSON."""
    body = json.dumps({"error": sentence, "detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def shown_name(name: object) -> str:
    """A client's name of a file, as it may be repeated to the client: its last part, one line, not too long."""
    text = os.path.basename(name.replace("\\", "/")) if isinstance(name, str) else ""
    return "".join(letter for letter in text if letter.isprintable())[:100] or "the image"
