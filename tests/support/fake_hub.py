"""A Hugging Face hub on the loopback, for the real client: metadata, LFS redirects, ranges, commits, and its refusals.

The hub answers at 127.0.0.1; large files lie at `localhost`, another host to the client, as the hub's store is. What
the real hub says was read off its client: headers, status codes, the protocol of commits.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

TOKEN = "hf_of_the_tests"
LARGE = (".safetensors", ".bin", ".pth", ".pt", ".npz")  # kept by LFS
KINDS = {"models": "", "spaces": "spaces/", "datasets": "datasets/"}
_PLACE = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclasses.dataclass
class Repository:
    """Commits of files. `gated` asks for a token, `refused` turns down every token."""

    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds a commit that holds these files; returns its hash."""
        content = "".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha], self.tags["main"] = dict(files), sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or hash names."""
        found = self.tags.get(revision, revision)
        return found if found in self.commits else None


class FakeHub:
    """Repositories by their place (`owner/name`, `spaces/owner/name`), what was asked for, and what is to go wrong."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.store: dict[str, bytes] = {}  # LFS objects by their sha256
        self.break_after: list[int] = []  # bytes after which the next downloads of large files break off
        self.stall_after = 0  # bytes after which the next download stops, until `go_on` is set; `stalled` tells of it
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.wrong_bytes = False  # the store serves other bytes of the same length
        self.down = False  # every answer is 503
        self.statuses: dict[str, int] = {}  # what paths that begin so are answered with
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def elsewhere(self) -> str:
        """The store of large files, on another host."""
        return f"http://localhost:{self.server.server_port}"

    def add(self, place: str, files: dict[str, bytes], **options: Any) -> Repository:
        """A repository with one commit."""
        repository = self.repositories.setdefault(place, Repository(**options))
        repository.commit(files)
        self.store |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        return repository

    def downloads(self, name: str = "") -> list[str]:
        """The large files whose bytes were asked for, by their hash; of one file of any repository, if it is named."""
        hashes = [path.rpartition("/")[2] for method, path, _ in self.asked if (method, path[:5]) == ("GET", "/lfs/")]
        if not name:
            return hashes
        wanted = {
            hashlib.sha256(files[name]).hexdigest()
            for repository in self.repositories.values()
            for files in repository.commits.values()
            if name in files
        }
        return [found for found in hashes if found in wanted]


@contextlib.contextmanager
def running() -> Iterator[FakeHub]:
    """A hub that answers while the block runs."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[http.server.BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": hub})


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str = ""):
        super().__init__(message or code)
        self.status, self.code = status, code


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        try:
            if self.hub.down:
                raise _Refused(503, "", "down")
            if status := next((s for start, s in self.hub.statuses.items() if path.startswith(start)), 0):
                raise _Refused(status, "", "not today")
            self._route(path)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self._send(refused.status, json.dumps({"error": str(refused)}).encode(), headers)

    def _route(self, path: str) -> None:
        routes = (
            (r"/lfs/(?P<oid>[0-9a-f]{64})", self._object),
            (r"/api/whoami-v2", self._who),
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (rf"/api/(?P<kind>models|spaces|datasets)/{_PLACE}(?:/revision/(?P<revision>.+))?", self._info),
            (rf"/api/(?P<kind>models|spaces|datasets)/{_PLACE}/preupload/(?P<revision>.+)", self._preupload),
            (rf"/api/(?P<kind>models|spaces|datasets)/{_PLACE}/commit/(?P<revision>.+)", self._commit),
            (rf"/{_PLACE}\.git/info/lfs/objects/batch", self._batch),
            (rf"/(?P<prefix>spaces/|datasets/)?{_PLACE}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._resolve),
        )
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, path):
                answer(**match.groupdict())
                return
        raise _Refused(404, "", f"no such route: {path}")

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repository(self, place: str, content: bool = True) -> Repository:
        """As the hub: who shows no token gets 401 for what does not exist; gated ones show their names to everybody."""
        token = self._token()
        if token not in ("", TOKEN):
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        found = self.hub.repositories.get(place)
        if found is None or (found.private and not token):
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if found.gated and content and not token:
            raise _Refused(401, "GatedRepo", f"Access to model {place} is restricted")
        return found

    def _info(self, kind: str, repo: str, revision: str | None) -> None:
        found = self._repository(KINDS[kind] + repo, content=False)
        sha = found.find(revision or "main")
        if sha is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": name, **_facts(name, data)} for name, data in found.commits[sha].items()]
        about = {"id": repo, "modelId": repo, "sha": sha, "private": found.private, "siblings": siblings}
        self._send_json(about | {"gated": "auto" if found.gated else False, "tags": [], "downloads": 0, "likes": 0})

    def _resolve(self, prefix: str | None, repo: str, revision: str, file: str) -> None:
        found = self._repository((prefix or "") + repo)
        sha = found.find(revision)
        if sha is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        data = found.commits[sha].get(file)
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        facts = _facts(file, data)
        if "lfs" in facts:
            oid = facts["lfs"]["sha256"]
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data)), "ETag": f'"{facts["blobId"]}"'}
            self._send(302, b"", linked | {"X-Repo-Commit": sha, "Location": f"{self.hub.elsewhere}/lfs/{oid}"})
        else:
            self._send(200, data, {"ETag": f'"{facts["blobId"]}"', "X-Repo-Commit": sha})

    def _object(self, oid: str) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == oid
            self.hub.store[oid] = self.body
            self._send(200, b"")
            return
        assert "Authorization" not in self.headers  # a token must not leave the hub
        data = self.hub.store[oid]
        if self.hub.wrong_bytes:
            data = bytes(len(data))
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part, headers = data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        if self.command == "GET" and self.hub.stall_after:
            self._stall(data)
        elif self.command == "GET" and self.hub.break_after:
            self._send(206 if start else 200, part, headers, cut=self.hub.break_after.pop(0))
            self.close_connection = True
        else:
            self._send(206 if start else 200, part, headers)

    def _stall(self, data: bytes) -> None:
        after, self.hub.stall_after = self.hub.stall_after, 0
        self._send(200, data, cut=after)
        self.wfile.flush()
        self.hub.stalled.set()
        self.hub.go_on.wait()
        self.close_connection = True

    def _who(self) -> None:
        if self._token() != TOKEN:
            raise _Refused(401, "", "Invalid user token")
        self._send_json({"type": "user", "name": "someone", "orgs": [], "auth": {"type": "access_token"}})

    def _may_write(self, place: str) -> None:
        if self._token() != TOKEN:
            raise _Refused(401, "", "Invalid username or password.")
        if not place.startswith("someone/"):
            raise _Refused(403, "", f"You don't have the rights to create a model under {place.partition('/')[0]}")

    def _create(self) -> None:
        asked = json.loads(self.body)
        place = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        self._may_write(place)
        if place in self.hub.repositories:
            self._send_json(
                {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{place}"}, 409
            )
            return
        self.hub.add(place, {}, private=bool(asked.get("private") or asked.get("visibility") == "private"))
        self._send_json({"url": f"{self.hub.endpoint}/{place}"})

    def _validate(self) -> None:
        text = json.loads(self.body)["content"]
        fine = text.startswith("---\n") and "\n---\n" in text
        self._send_json({"errors": [] if fine else [{"message": "no metadata"}], "warnings": []}, 200 if fine else 400)

    def _preupload(self, kind: str, repo: str, revision: str) -> None:
        self._may_write(KINDS[kind] + repo)
        files = [file["path"] for file in json.loads(self.body)["files"]]
        modes = [
            {"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular", "shouldIgnore": False} for p in files
        ]
        self._send_json({"files": modes})

    def _batch(self, repo: str) -> None:
        self._may_write(repo)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.elsewhere}/lfs/{wanted['oid']}"}}
            objects.append(wanted | ({} if wanted["oid"] in self.hub.store else {"actions": upload}))
        self._send_json({"objects": objects, "transfer": "basic"})

    def _commit(self, kind: str, repo: str, revision: str) -> None:
        self._may_write(KINDS[kind] + repo)
        repository = self.hub.repositories[KINDS[kind] + repo]
        files = dict(repository.commits[repository.tags[revision]])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._send_json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}", "commitOid": sha})

    def _send_json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])


def _facts(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    facts: dict[str, Any] = {"size": len(data), "blobId": blob}
    if name.endswith(LARGE):
        facts["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return facts
