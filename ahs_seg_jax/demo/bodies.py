"""What a request to the page's functions must look like, looked at before Gradio, which ends in a traceback otherwise.

Bodies are JSON without NaN and infinity; a function that the page has is named, with as many values as it takes, and
sliders and lists of examples get values that they could have. Only the fields that the page itself sends are passed on.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import parse_qs

from ahs_seg_jax.admission import App, Receive, Scope, Send, answer

CALLS = ("/gradio_api/run/", "/gradio_api/call/", "/gradio_api/queue/join")
STREAM = "/gradio_api/queue/data"
PASSED_ON = ("data", "fn_index", "session_hash", "trigger_id", "event_data", "event_id")
MOST_DEPTH = 20
Fits = Callable[[Any], bool]


class Bodies:
    """An ASGI application in front of Gradio's. `functions`: for each by its number, whether each input fits.

    `names` are the numbers of the functions that can be called by a name, `sessions` those that wait for an answer.
    """

    def __init__(
        self, app: App, functions: Mapping[int, list[Fits]], names: Mapping[str, int], sessions: Collection[str]
    ):
        self._app, self._functions, self._names, self._sessions = app, functions, names, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path == STREAM and not self._waits(scope["query_string"]):
            await answer(send, 404, "No answer waits under this session.")
            return
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or path.endswith("/upload"):
            await self._app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body", False):
                break
        checked = self._checked(path, body)
        if checked is None:
            await answer(send, 422, "This is no request that the page sends.")
            return
        await self._app(_with_length(scope, len(checked)), _Once(checked, receive), send)

    def _waits(self, query: bytes) -> bool:
        return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0] in self._sessions

    def _checked(self, path: str, body: bytes) -> bytes | None:
        """The body that is passed on, or None if it is none that the page sends."""
        try:
            content = json.loads(body, parse_constant=_no_number)
            if not isinstance(content, dict) or _depth(content) > MOST_DEPTH:
                return None
            if path.startswith(CALLS):
                number = content.get("fn_index")
                content["fn_index"] = self._names.get(path.rpartition("/")[2]) if number is None else number
                if not self._is_call(content):
                    return None
                content = {name: content[name] for name in PASSED_ON if name in content}
            return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of thousands of digits
            return None

    def _is_call(self, content: dict[str, Any]) -> bool:
        number, data = content["fn_index"], content.get("data")
        if not isinstance(number, int) or isinstance(number, bool) or number not in self._functions:
            return False
        inputs = self._functions[number]
        named = all(isinstance(content.get(name, ""), str | None) for name in ("session_hash", "event_id"))
        if not named or not isinstance(data, list) or len(data) != len(inputs):
            return False
        return all(fits(value) for fits, value in zip(inputs, data, strict=True))


class _Once:
    """The body that was looked at, and then whatever else comes, such as that the client has gone."""

    def __init__(self, body: bytes, receive: Receive):
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _depth(value: Any) -> int:
    """Of nested lists and objects."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
