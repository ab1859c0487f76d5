"""Which hosts, origins and files are admitted; see also `tests/attack/test_page_http.py`."""

import asyncio
import json

import pytest

from ahs_seg_jax import admission
from ahs_seg_jax.admission import Admission, Hosts, Routes, uploaded_file

ROUTES = Routes(frozenset({"/"}), ("/api/",), files=("/file=",), uploads=frozenset({"/upload"}))


@pytest.mark.parametrize(
    ("bound", "host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "192.168.1.7", False),
        ("127.0.0.1", "evil.example", False),
        ("::1", "[::1]:7860", True),
        ("192.168.1.7", "192.168.1.7:7860", True),
        ("192.168.1.7", "127.0.0.1", False),
        ("192.168.1.7", "evil.example", False),
        ("box.local", "BOX.local:7860", True),
        ("0.0.0.0", "192.168.1.7:7860", True),
        ("0.0.0.0", "localhost:7860", True),
        ("0.0.0.0", "this-machine", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fe80::1]:7860", True),
        ("0.0.0.0", "segment.example.org", True),
        ("0.0.0.0", "a.segment.example.org", False),
        ("0.0.0.0", None, False),
    ],
)
def test_hosts(monkeypatch, bound, host, allowed):
    monkeypatch.setattr(admission.socket, "gethostname", lambda: "this-machine")
    assert Hosts.of(bound, ["Segment.Example.org"]).allow(host) is allowed


@pytest.mark.parametrize("name", ["", "https://x.org", "x.org:80", "x.org/path", "*", "a, b", "a@b"])
def test_names_that_are_no_hosts(name):
    with pytest.raises(ValueError, match="is no host name; give it without scheme and port"):
        Hosts.of("0.0.0.0", [name])


def test_files(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.png").write_text("")
    (tmp_path / "y.png").write_text("")
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(folder)
    assert uploaded_file(f"{folder}/a/x.png", folder) == folder / "a" / "x.png"
    # The folder itself may be reached through a link, as the temporary folder of macOS is.
    assert uploaded_file(f"{tmp_path}/other/a/x.png", tmp_path / "other") == folder / "a" / "x.png"
    for path in (
        "a/x.png",
        f"{folder}",
        f"{folder}/a",
        f"{folder}/link/y.png",
        f"{folder}/a/../a/x.png",
        None,
        b"x",
        3,
    ):
        assert uploaded_file(path, folder) is None


def asked(method, path, headers, kind="http"):
    """What comes back from an application that answers everything: its status and body."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"passed"})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    hosts = Hosts.of("127.0.0.1")
    asyncio.run(Admission(app, hosts, ROUTES, folder=None, most_upload_bytes=10)(scope, None, send))
    return sent


HOST = (b"host", b"localhost:1")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", [HOST], 200),
        ("GET", "/", [], 421),
        ("GET", "/", [HOST, HOST], 421),
        ("GET", "/", [HOST, (b"origin", b"http://localhost:1")], 200),
        ("GET", "/", [HOST, (b"origin", b"http://localhost:1"), (b"origin", b"http://evil")], 403),
        ("GET", "/other", [HOST], 404),
        ("GET", "/api/x", [HOST], 200),
        ("POST", "/api/x", [HOST, (b"content-length", b"1048576")], 200),
        ("POST", "/api/x", [HOST, (b"content-length", b"1048577")], 413),
        ("POST", "/api/x", [HOST], 411),
        ("POST", "/api/x", [HOST, (b"content-length", b"-1")], 411),
        ("POST", "/api/x", [HOST, (b"content-length", b"1" * 5000)], 411),
        ("POST", "/api/x", [HOST, (b"content-length", "²".encode("latin-1"))], 411),
        ("POST", "/api/x", [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 411),
        ("POST", "/upload", [HOST, (b"content-length", b"10")], 200),
        ("POST", "/upload", [HOST, (b"content-length", b"11")], 413),
        ("DELETE", "/api/x", [HOST, (b"sec-fetch-site", b"cross-site"), (b"content-length", b"0")], 403),
    ],
)
def test_requests(method, path, headers, status):
    start, body = asked(method, path, headers)
    assert start["status"] == status
    assert body["body"] == b"passed" if status == 200 else set(json.loads(body["body"])) == {"error", "detail"}


def test_no_websockets():
    assert asked("GET", "/", [HOST], "websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a.png", "a.png"), ("/x/y.png", "y.png"), ("C:\\x\\y.png", "y.png"), ("", "the image"), (None, "the image")],
)
def test_names_for_people(name, shown):
    assert admission.shown_name(name) == shown
    assert admission.shown_name("x" * 1000) == "x" * 100
