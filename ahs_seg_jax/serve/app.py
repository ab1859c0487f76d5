"""The ASGI application: which path answers what, and who may ask. `batching.py` calls the model."""

import asyncio
import concurrent.futures
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from ahs_seg_jax.admission import Admission, App, Hosts, Receive, Routes, Scope, Send
from ahs_seg_jax.segmenter import Segmentation
from ahs_seg_jax.serve import answers
from ahs_seg_jax.serve.batching import Batches, Words
from ahs_seg_jax.serve.limits import Limits, Refused
from ahs_seg_jax.serve.metrics import Metrics
from ahs_seg_jax.versions import __version__

logger = logging.getLogger("ahs_seg_jax")
THREADS = 4  # that decode images and write answers
PAGE_FILES = "/page/"  # what the page of the API is made of; nothing is fetched from elsewhere
SEGMENT, HEALTH, METRICS, SCHEMA, PAGE = "/segment", "/health", "/metrics", "/openapi.json", "/docs"
ROUTES = Routes(
    whole=frozenset({"/", HEALTH, METRICS, SCHEMA, PAGE}), beginnings=(PAGE_FILES,), uploads=frozenset({SEGMENT})
)
NEED_KEY = (SEGMENT, METRICS)
SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
}
REFUSALS = {
    400: "No HTTP request, or no form.",
    401: "The key is missing or wrong.",
    403: "A page of another site asks.",
    408: "The upload took too long.",
    411: "The request does not say how long it is.",
    413: "The file has too many bytes, or the image too many pixels.",
    421: "The server is not reached under this name.",
    422: "The image cannot be read, or the names cannot be used.",
    429: "Too many requests wait already; ask again later.",
    501: "Polygons need a library that is not installed at the server.",
    503: "The server is stopping.",
    504: "The answer took too long.",
}
Segment = Callable[[list[np.ndarray], Words], Sequence[Segmentation]]


class Server:
    """What answers `/segment`: the requests being answered, the threads around the model, and the counts."""

    def __init__(self, segment: Segment, limits: Limits):
        self.limits, self.metrics = limits, Metrics()
        self.batches = Batches(segment, limits.together, self.metrics.together.observe)
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="images")
        self._inside = 0  # requests; only the event loop changes it

    async def answer(self, request: Request, data: bytes, words: Words, form: answers.Format) -> tuple[bytes, str]:
        """The body and its media type. Raises Refused. A client that has gone away is not worked for."""
        if self._inside >= self.limits.waiting:
            raise Refused(429, f"{self._inside} requests are being answered already; ask again in a few seconds.")
        self._inside += 1
        self.metrics.waiting.set(self._inside)
        work = asyncio.ensure_future(self._answer(data, words, form))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise Refused(499, "The client has gone away.")
            raise Refused(504, f"The answer took longer than {self.limits.seconds:g} s: try a smaller image.")
        finally:
            for task in (work, gone):
                task.cancel()
            self._inside -= 1
            self.metrics.waiting.set(self._inside)

    async def _answer(self, data: bytes, words: Words, form: answers.Format) -> tuple[bytes, str]:
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._threads, answers.image, data, self.limits)
        try:
            result = await asyncio.wrap_future(self.batches.ask(image, words))
        except (ValueError, TypeError) as error:  # names that cannot be used, a bound of the memory
            raise Refused(422, str(error)) from error
        try:
            return await loop.run_in_executor(self._threads, answers.rendered, result, form)
        except ImportError as error:
            raise Refused(501, "Polygons need rasterio, which is not installed at this server.") from error

    def close(self) -> None:
        """Ends the threads."""
        self.batches.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def build(segment: Segment, limits: Limits, hosts: Hosts, about: str, keys: frozenset[str] = frozenset()) -> Any:
    """The application, whose attribute `server` is its Server.

    `about` is a sentence about the model for the page. With `keys`, labels and counts are for those who have one.
    """
    server = Server(segment, limits)
    api = FastAPIOffline(
        title="ahs-seg serve",
        description=f"An image and words in, labels out. {about}",
        version=__version__,
        docs_url=PAGE,
        redoc_url=None,
        openapi_url=SCHEMA,
        static_url=PAGE_FILES.rstrip("/"),
    )
    _add_paths(api, server, [Depends(HTTPBearer(auto_error=False))] if keys else [])
    _add_refusals(api)
    app: Any = api
    for layer in (
        lambda inner: _Uploads(inner, limits.upload_seconds),
        lambda inner: _Keys(inner, keys),
        # A form says something around its file.
        lambda inner: Admission(inner, hosts, ROUTES, (limits.upload_mb + 1) * 2**20),
        lambda inner: _Counted(inner, server.metrics),
    ):
        app = layer(app)
    app.server = server
    return app


def _add_paths(api: FastAPI, server: Server, key: list[Any]) -> None:
    limits = server.limits
    example = {"application/json": {"example": {"error": "One sentence that says what to change."}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": example} for status, text in REFUSALS.items()
    }
    answer = {
        "description": "png: class indices with the names in the file's metadata, 255 (65535 with 255 names and more) "
        "where there is none. rle: COCO annotations. polygons: GeoJSON in pixels. areas: pixels and share by name.",
        "content": {"image/png": {}, "application/json": {}, "application/geo+json": {}},
    }

    @api.post(SEGMENT, responses={200: answer, **refusals}, response_class=Response, dependencies=key)
    async def segment(
        request: Request,
        image: Annotated[
            UploadFile,
            File(
                description=f"JPEG, PNG, WebP, TIFF, BMP or GIF; at most {limits.upload_mb} x 2**20 bytes and "
                f"{limits.megapixels:g} megapixels."
            ),
        ],
        names: Annotated[
            str,
            Form(description=f"At most {limits.classes}, separated by ';' or lines, synonyms by ',': cat; sofa, couch"),
        ],
        format: Annotated[answers.Format, Form(description="What is answered.")] = "png",
        unknown: Annotated[
            str,
            Form(description="none, a probability below which pixels have no name, or background words 'wall; sky'."),
        ] = "none",
    ) -> Response:
        """Segments an image by the names."""
        words = answers.words(names, unknown, limits)
        body, kind = await server.answer(request, await image.read(), words, format)
        return Response(body, media_type=kind)

    @api.get(HEALTH)
    async def health() -> JSONResponse:
        """Whether images are segmented."""
        works = server.batches.alive()
        return JSONResponse({"status": "ok" if works else "stopping", "version": __version__}, 200 if works else 503)

    @api.get(METRICS, response_class=Response, dependencies=key)
    async def metrics() -> Response:
        """Counts and times, in Prometheus' text format."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse(PAGE)


def _add_refusals(api: FastAPI) -> None:
    @api.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refusal(error.status, error.sentence)

    @api.exception_handler(RequestValidationError)
    async def wrong_form(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _refusal(422, f"{first['loc'][-1]}: {first['msg']}.")

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        known = {404: "There is nothing here.", 405: f"This path does not answer {request.method}."}
        return _refusal(error.status_code, known.get(error.status_code, str(error.detail)))

    @api.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        # Out of memory, a full disk, a mistake of ours: the text may name anything on this machine. The log has it.
        return _refusal(500, f"This image could not be segmented ({type(error).__name__}); the server's log says more.")


def _refusal(status: int, sentence: str) -> Response:
    headers = {"retry-after": "5"} if status in (429, 503) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": sentence, "detail": sentence}, status, headers=headers)


class _Uploads:
    """Answers 408 where a request's body has not come in time."""

    def __init__(self, app: App, seconds: float):
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        complete, due = scope["type"] != "http", time.monotonic() + self._seconds

        async def in_time() -> Any:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(due - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The upload took longer than {self._seconds:g} s.") from None
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, in_time, send)


class _Keys:
    """Answers 401 to who has none of the keys, before a byte of a body is read. Without keys everybody may ask."""

    def __init__(self, app: App, keys: frozenset[str]):
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] in NEED_KEY and not self._has_one(scope):
            refusal = _refusal(401, "This server needs a key: send the header 'Authorization: Bearer KEY'.")
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_one(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or given[0][:7].lower() != b"bearer ":
            return False
        # Every key is compared, in a time that does not depend on them.
        return any([hmac.compare_digest(given[0][7:].strip(), key) for key in self._keys])


class _Counted:
    """Counts every answer by path and status, and how long it took."""

    def __init__(self, app: App, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"] if scope["path"] in ROUTES.whole | ROUTES.uploads else "other"
        started, status = time.monotonic(), 499  # the client went away before there was an answer

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in SAFE.items())]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)
