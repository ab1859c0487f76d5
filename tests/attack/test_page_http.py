"""The running page under attack by HTTP: it reads uploads only, answers its own page only, and asks nobody."""

import http.client
import http.server
import json
import os
import threading
import uuid

import pytest
from PIL import Image

from ahs_seg_jax.admission import UPLOADED_AGAIN

REFUSED = UPLOADED_AGAIN
META = {"meta": {"_type": "gradio.FileData"}}


def ask(page, method, path, body=None, **headers):
    """Status and text of a request; `body` is sent as JSON, unless it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body), {"Content-Type": "application/json"} | headers
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def by_run(page, upload, words="grass; brick wall", alpha=0.6, least=0):
    """The data of the answer of /run."""
    status, text = ask(page, "POST", "/gradio_api/run/segment", {"data": [upload, words, alpha, least]})
    assert status == 200, text
    return json.loads(text)["data"]


def events(text):
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def segment_number(page):
    functions = json.loads(ask(page, "GET", "/config")[1])["dependencies"]
    return next(function["id"] for function in functions if function["api_name"] == "segment")


def by_queue(page, upload):
    session, number = uuid.uuid4().hex, segment_number(page)
    body = {"data": [upload, "grass; brick wall", 0.6, 0], "fn_index": number, "session_hash": session}
    status, text = ask(page, "POST", "/gradio_api/queue/join", body)
    assert status == 200, text
    status, text = ask(page, "GET", f"/gradio_api/queue/data?session_hash={session}")
    return next(event for event in events(text) if event["msg"] == "process_completed")["output"]["data"]


def by_call(page, upload):
    status, text = ask(page, "POST", "/gradio_api/call/segment", {"data": [upload, "grass; brick wall", 0.6, 0]})
    assert status == 200, text
    status, text = ask(page, "GET", f"/gradio_api/call/segment/{json.loads(text)['event_id']}")
    return events(text)[-1]


def upload(page, name, data):
    """The path under which the page knows an upload."""
    edge = "----edge"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + data + f"\r\n--{edge}--\r\n".encode()
    status, text = ask(
        page, "POST", "/gradio_api/upload", body, **{"Content-Type": f"multipart/form-data; boundary={edge}"}
    )
    assert status == 200, text
    return json.loads(text)[0]


@pytest.fixture
def recorder():
    """A server that writes down what is asked of it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("send", [by_run, by_queue, by_call])
def test_an_upload_is_segmented(running_page, send):
    path = upload(running_page, "photo.png", running_page.secret.read_bytes())
    for more in ({}, META, META | {"url": f"http://127.0.0.1:{running_page.port}/gradio_api/file={path}"}):
        message, overlay, *_ = send(running_page, {"path": path, "orig_name": "photo.png"} | more)
        assert "384 x 384 pixels, 2 names" in message
        assert ask(running_page, "GET", f"/gradio_api/file={overlay['path']}")[0] == 200


def foreign_paths(page, root):
    """A path of each kind of what is no upload; each of them names a picture that exists, unless its name says no."""
    outside = page.secret
    link, deep = page.folder / "link.png", page.folder / "linked_folder"
    if not link.is_symlink():
        link.symlink_to(outside)
        deep.symlink_to(outside.parent)
        os.mkfifo(page.folder / "pipe.png")
    return [
        str(outside),
        "/no/such/file.png",
        "/etc/passwd",
        os.path.relpath(outside),
        os.path.relpath(page.folder / "example_1.png"),
        f"{page.folder}/../{outside.name}",
        f"{page.folder}/./../{outside.name}",
        f"{page.folder}/nothing/../../{outside.name}",
        f"{page.folder}x/../{outside.name}",
        str(link),
        str(deep / outside.name),
        str(page.folder / "pipe.png"),
        str(page.folder),
        f"{page.folder}/missing.png",
        f"{page.folder}/{'x' * 5000}",
        f"file://{outside}",
        f"file://localhost{outside}",
        f"{page.folder}/example_1.png\0.png",
        "",
        "~/.bashrc",
        "/proc/self/environ",
    ]


@pytest.mark.parametrize("send", [by_run, by_queue, by_call])
@pytest.mark.parametrize("more", [{}, META], ids=["bare", "as Gradio's"])
def test_no_other_file_is_read_and_no_answer_tells_which_exist(running_page, tmp_path, send, more):
    answers = {json.dumps(send(running_page, {"path": path} | more)) for path in foreign_paths(running_page, tmp_path)}
    assert len(answers) == 1
    (answer,) = answers
    assert REFUSED in answer
    assert str(running_page.secret.parent) not in answer


@pytest.mark.parametrize("more", [{}, META], ids=["bare", "as Gradio's"])
def test_no_address_is_asked(running_page, recorder, more):
    address = f"http://127.0.0.1:{recorder.server_port}/picture.png"
    example = str(running_page.folder / "example_1.png")
    for named in ({"path": address}, {"url": address}, {"path": None, "url": address}, {"path": "", "url": address}):
        assert REFUSED in json.dumps(by_run(running_page, named | more))
    assert "384 x 384" in by_run(running_page, {"path": example, "url": address} | more)[0]
    for route in ("file=", "proxy=", "file/"):
        assert ask(running_page, "GET", f"/gradio_api/{route}{address}")[0] == 404
    assert recorder.asked == []


@pytest.mark.parametrize(
    "sent",
    [
        ["/etc/passwd", "grass", 0.6, 0],
        [["/etc/passwd"], "grass", 0.6, 0],
        [7, "grass", 0.6, 0],
        [{"path": {"path": "/etc/passwd"}}, "grass", 0.6, 0],
        [{"path": 7}, "grass", 0.6, 0],
        [None, ["grass"], 0.6, 0],
        [None, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 0.6, 0],
        [None, None, 0.6, 0],
        [None, "grass", "0.6", 0],
        [None, "grass", 0.6, 1e400],
        [None, "grass", -1, 0],
        [None, "grass", 0.6, [1]],
    ],
)
def test_values_that_the_page_never_sends_are_mistakes(running_page, sent):
    status, text = ask(running_page, "POST", "/gradio_api/run/segment", {"data": sent})
    if status == 200:
        assert "message mistake" in json.loads(text)["data"][0]
    else:
        assert status in (400, 422)
    assert "/etc" not in text
    assert "root:" not in text


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"data": NaN}',
        b'{"data": [null, "grass", 0.6, Infinity]}',
        b'{"data": [null, "grass", 0.6, 1e999]}',
        b'{"data": [null, "\\ud800", 0.6, 0]}',
        b'{"data": [], "fn_index": 0}',
        b'{"data": [{"path": 1}], "fn_index": 0}',
        b'{"data": [99], "fn_index": 0}',
        b'{"data": [null], "fn_index": 999}',
        b'{"data": [null], "fn_index": -1}',
        b'{"data": [null], "fn_index": "0"}',
        b'{"data": {}, "session_hash": 7}',
        b'{"data": [null, "grass", 0.6, 0], "session_hash": []}',
        b"[" * 100_000,
        b'{"data": ' * 50_000,
        b'{"data": [' + b"9" * 5000 + b"]}",
    ],
    ids=range(20),
)
@pytest.mark.parametrize("route", ["run/segment", "run/predict", "call/segment", "queue/join", "cancel", "reset"])
def test_bodies_that_the_page_never_sends_are_refused_in_a_sentence(running_page, sent, route):
    status, text = ask(running_page, "POST", f"/gradio_api/{route}", sent, **{"Content-Type": "application/json"})
    assert status == 422, text


def test_who_asks_and_goes_away_stops_nobody(running_page):
    example = str(running_page.folder / "example_1.png")
    body = json.dumps({"data": [{"path": example}, "grass; brick wall", 0.6, 0]}).encode()
    for _ in range(12):
        for route in ("call/segment", "queue/join"):
            session = {"session_hash": uuid.uuid4().hex} if route == "queue/join" else {}
            connection = http.client.HTTPConnection("127.0.0.1", running_page.port, timeout=60)
            content = json.dumps(json.loads(body) | session | {"fn_index": segment_number(running_page)})
            connection.request("POST", f"/gradio_api/{route}", content, {"Content-Type": "application/json"})
            connection.getresponse().read()
            if session:
                connection.request("GET", f"/gradio_api/queue/data?session_hash={session['session_hash']}")
            connection.close()
    status, text = ask(running_page, "GET", "/gradio_api/queue/data?session_hash=nobody")
    assert (status, "No answer waits" in text) == (404, True)
    assert "384 x 384" in by_queue(running_page, {"path": example})[0]


def test_files_are_served_from_the_uploads_only_and_the_rest_is_answered_alike(running_page, tmp_path):
    example = running_page.folder / "example_1.png"
    status, _ = ask(running_page, "HEAD", f"/gradio_api/file={example}")
    assert status == 200
    answers = set()
    for path in foreign_paths(running_page, tmp_path):
        quoted = path.replace("\0", "%00")
        for named in {quoted, quoted.replace("/", "%2F"), quoted.replace("..", "%2e%2e")}:
            answers.add(ask(running_page, "GET", f"/gradio_api/file={named}"))
    assert {status for status, _ in answers} == {404}
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=https://x.hf.space/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/gradio_api/vibe-code"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/custom_component/x/client/component/../../x"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/login"),
        ("GET", "/gradio_api/runs"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(running_page, method, path):
    status, text = ask(running_page, method, path, {} if method == "POST" else None)
    assert (status, json.loads(text)["error"]) == (404, "There is nothing here.")


@pytest.mark.parametrize(
    "path",
    ["/static/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/%2e%2e/x", "/svelte/..%2f..%2fx", "/assets//etc/passwd"],
)
def test_the_pages_own_files_lead_nowhere_else(running_page, path):
    status, text = ask(running_page, "GET", path)
    assert status in (400, 403, 404)
    assert "root:" not in text


GOOD_HOSTS = (
    "127.0.0.1",
    "localhost",
    "localhost:9999",
    "LOCALHOST",
    "[::1]:80",
    "page.example.org",
    "Page.Example.org:443",
)
BAD_HOSTS = (
    "evil.example",
    "evil.example:7860",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "0.0.0.0",
    "10.0.0.1",
)
BAD_HOSTS += ("", "evil.example@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1/evil", "127.0.0.1, evil", "[::2]")
BAD_HOSTS += ("127.0.0.1:x", "x.page.example.org", "127.0.0.1\\evil")


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_names_of_this_server(running_page, host):
    assert ask(running_page, "GET", "/config", Host=host)[0] == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/gradio_api/queue/join"), ("GET", "/x")])
def test_other_hosts_get_no_answer(running_page, host, method, path):
    status, text = ask(running_page, method, path, {} if method == "POST" else None, Host=host)
    assert status in (400, 421)
    assert status == 400 or "--allowed-host NAME" in text
    assert "gradio" not in text


def test_a_proxys_header_does_not_bring_in_another_host(running_page):
    assert ask(running_page, "GET", "/config", **{"X-Forwarded-Host": "evil.example"})[0] == 421
    assert ask(running_page, "GET", "/config", **{"X-Forwarded-Host": "page.example.org"})[0] == 200


BAD_ORIGINS = ("http://evil.example", "https://evil.example:7860", "null", "", "http://127.0.0.1:1", "file://")
BAD_ORIGINS += ("http://localhost.evil.example", "http://127.0.0.1@evil.example", "evil.example", "http://[")


@pytest.mark.parametrize("origin", BAD_ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_sites_pages_get_no_answer(running_page, origin, method):
    path = "/gradio_api/run/segment" if method == "POST" else "/config"
    status, text = ask(running_page, method, path, {"data": []} if method == "POST" else None, Origin=origin)
    assert (status, json.loads(text)["error"]) == (403, "Another site's page may not use this one.")


def test_the_page_itself_and_a_proxy_by_a_name_that_was_given_are_answered(running_page):
    body = {"data": [None, "grass", 0.6, 0]}
    for origin in (f"http://127.0.0.1:{running_page.port}", "https://page.example.org"):
        assert ask(running_page, "POST", "/gradio_api/run/segment", body, Origin=origin)[0] == 200
    for site in ("cross-site", "same-site"):
        status, _ = ask(running_page, "POST", "/gradio_api/run/segment", body, **{"Sec-Fetch-Site": site})
        assert status == 403
    assert ask(running_page, "GET", "/", **{"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link from another site


def test_sizes_of_requests_are_bounded(running_page):
    long = {"data": [None, "x" * 2**20, 0.6, 0]}
    assert ask(running_page, "POST", "/gradio_api/run/segment", long)[0] == 413
    big = {"Content-Length": str(3 * 2**20 + 1), "Content-Type": "multipart/form-data; boundary=x"}
    assert ask(running_page, "POST", "/gradio_api/upload", b"", **big)[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", running_page.port, timeout=60)
    connection.request("POST", "/gradio_api/run/segment", iter([b"{}"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_names_of_uploads_are_shown_but_no_folders(running_page):
    path = upload(running_page, "photo.png", b"no image")
    for name, shown in (("holiday.png", "holiday.png"), ("/etc/<b>.png", "&lt;b&gt;.png"), (7, "the image")):
        message = by_run(running_page, {"path": path, "orig_name": name})[0]
        assert f">{shown} is not an image" in message
        assert str(running_page.folder) not in message
    Image.new("RGB", (1001, 1000)).save(running_page.folder / "large.png")
    message = by_run(running_page, {"path": str(running_page.folder / "large.png"), "orig_name": "a\nb"})[0]
    assert ">ab has 1001 x 1000 = 1 megapixels" in message
