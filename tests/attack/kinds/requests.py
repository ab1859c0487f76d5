"""HTTP requests at the door of every server here, without one: only what may pass reaches the application."""

import asyncio
import pathlib

from ahs_seg_jax.admission import Admission, Hosts, Routes, shown_name, uploaded_file
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent

HOSTS = (
    *("127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "page.example.org", "evil.org", "127.0.0.1.evil.org"),
    *(
        "",
        " ",
        "localhost@evil.org",
        "evil.org#localhost",
        "localhost:x",
        "localhost:99999999",
        "[::1",
        "\u00b2",
        "a" * 5000,
    ),
    *("localhost, evil.org", "127.1", "2130706433", "0x7f.1", "localhost.", "http://localhost", "localhost/x", "\0"),
)
ORIGINS = (
    *("http://127.0.0.1:7860", "http://localhost", "https://evil.org", "null", "", "file://", "http://", "http://[::1"),
    *(
        "https://page.example.org",
        "http://127.0.0.1:7860.evil.org",
        "javascript:x",
        "http://localhost@evil.org",
        "\xff",
    ),
)
PATHS = (
    "/",
    "/config",
    "/upload",
    "/file=",
    "/api/x",
    "/../etc/passwd",
    "//etc/passwd",
    "/file=/etc/passwd",
    "/x" * 3000,
)
LENGTHS = ("0", "1", "-1", "x", "", "1" * 5000, "99999999999999999999", "\u00b2", "1, 1", "1.0", "0x1")
GOOD_HOSTS = {"127.0.0.1", "localhost", "::1", "page.example.org", "localhost."}


class Attack(Kind):
    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self._passed = []
        (folder / "uploads" / "deep").mkdir(parents=True)
        self._secret = folder / "secret.png"
        for path in (self._secret, folder / "uploads" / "a.png", folder / "uploads" / "deep" / "b.png"):
            path.write_text(path.name)
        (folder / "uploads" / "link.png").symlink_to(self._secret)
        routes = Routes(frozenset({"/", "/config"}), ("/api/",), ("/file=",), frozenset({"/upload"}))
        hosts = Hosts.of("127.0.0.1", ["page.example.org"])
        self._admission = Admission(self._app, hosts, routes, 1000, folder / "uploads")
        self._pieces = (
            *(str(folder), "uploads", "a.png", "deep", "b.png", "link.png", "secret.png", "..", ".", "", "\0", "~"),
            *("/etc/passwd", "%2e%2e", "file://", "\u2025", "C:\\", "x" * 300),
        )

    async def _app(self, scope, receive, send):
        self._passed.append(scope)

    def run(self, rng):
        self._file(rng)
        headers = [(b"host", mutations.pick(rng, HOSTS).encode())] if rng.random() < 0.95 else []
        for name, values, share in (
            *((b"origin", ORIGINS, 0.5), (b"content-length", LENGTHS, 0.7), (b"x-forwarded-host", HOSTS, 0.1)),
            *((b"sec-fetch-site", ("same-origin", "cross-site", "none", "x"), 0.3), (b"host", HOSTS, 0.05)),
            (b"transfer-encoding", ("chunked", "gzip"), 0.05),
        ):
            if rng.random() < share:
                headers.append((name, mutations.pick(rng, values).encode("utf-8")))
        path, method = mutations.pick(rng, PATHS), mutations.pick(rng, ("GET", "POST", "PUT", "HEAD", "DELETE", "X"))
        kind = mutations.pick(rng, ("http",) * 9 + ("websocket",))
        self._passed.clear()
        sent = []

        async def send(message):
            sent.append(message)

        asyncio.run(self._admission({"type": kind, "method": method, "path": path, "headers": headers}, None, send))
        if self._passed:
            self._check(kind, method, headers)
        elif kind == "http" and not 400 <= sent[0]["status"] < 500:
            raise Silent(f"answered {sent[0]}")

    def _check(self, kind, method, headers):
        values = [value.decode() for name, value in headers if name in (b"host", b"x-forwarded-host")]
        names = [value.lower().rpartition(":")[0] if ":" in value else value.lower() for value in values]
        if kind != "http" or not names or {name.strip("[]") for name in names} - GOOD_HOSTS:
            raise Silent(f"let {values} pass")
        origins = [value.decode() for name, value in headers if name == b"origin"]
        if any("evil" in origin or "://" not in origin for origin in origins):
            raise Silent(f"let {origins} pass")
        if method not in ("GET", "HEAD") and not any(name == b"content-length" for name, _ in headers):
            raise Silent("let a body of no length pass")

    def _file(self, rng):
        parts = [mutations.pick(rng, self._pieces) for _ in range(int(rng.integers(1, 6)))]
        named = (
            "/".join(parts) if rng.random() < 0.7 else str(self.folder / "uploads" / "/".join(parts[1:]).lstrip("/"))
        )
        found = uploaded_file(named, self.folder / "uploads")
        if found is not None and found.read_text() not in ("a.png", "b.png"):
            raise Silent(f"{named} is {found}")
        shown = shown_name(named)
        if "/" in shown or len(shown) > 100 or not shown.isprintable():
            raise Silent(f"{named} is shown as {shown!r}")
