"""How long the server waits for a client: a connection on which nothing comes, or too slowly, is closed.

Uvicorn ends connections that are idle between two requests. Here a request's head and body, and the client's reading of
an answer, have their time too, so that neither half-open connections nor a byte now and then keep one for ever.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HEADER_BYTES = 16 * 2**10
HEAD_SECONDS = 10.0
READING_SECONDS = 60.0  # for each 64 kB that the client has not taken yet


def protocol(upload_seconds: float, head_seconds: float = HEAD_SECONDS) -> type[H11Protocol]:
    """Uvicorn's HTTP with these times. A body that is late is first answered by the application (408)."""

    class Patience(H11Protocol):
        _phase: Any = None
        _due: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._due, self._unread):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            if self._unread:
                self._unread.cancel()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """As Uvicorn's, in JSON."""
            body = json.dumps({"error": "This is no HTTP request that is understood.", "detail": msg}).encode()
            headers = [("content-type", "application/json"), ("connection", "close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _look(self) -> None:
            """Starts the time of what the client sends now, when that is another part than before."""
            phase = self.conn.their_state
            if phase is self._phase:
                return
            self._phase = phase
            if self._due:
                self._due.cancel()
                self._due = None
            seconds = {h11.IDLE: head_seconds, h11.SEND_BODY: upload_seconds + 5}.get(phase)
            if seconds is not None:
                self._due = self.loop.call_later(seconds, self.transport.abort)

    return Patience
