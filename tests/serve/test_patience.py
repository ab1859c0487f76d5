"""Connections on which a client sends nothing, or too slowly, or from which it does not read, are closed."""

import asyncio
import socket
import time

import pytest

pytest.importorskip("uvicorn")

import uvicorn

from ahs_seg_jax.serve import patience


async def app(scope, receive, send):
    """Answers with 8 MB, after the body."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8000000")]})
    await send({"type": "http.response.body", "body": bytes(8000000)})


async def closed_after(port, first, again=b""):
    """Seconds until the server closes a connection on which `first` was sent, then `again` every 50 ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    started = time.monotonic()
    try:
        while time.monotonic() - started < 10:
            try:
                if not await asyncio.wait_for(reader.read(1), 0.05):
                    break
            except TimeoutError:
                writer.write(again)
    except ConnectionError:
        pass
    writer.close()
    return time.monotonic() - started


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


def test_times(monkeypatch):
    monkeypatch.setattr(patience, "READING_SECONDS", 0.4)

    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            made = patience.protocol(upload_seconds=-4.5, head_seconds=0.3)  # 0.5 s for a body
            config = uvicorn.Config(app, http=made, ws="none", lifespan="off", log_level="critical")
            server = uvicorn.Server(config)
            running = asyncio.ensure_future(server.serve(sockets=[listener]))
            await asyncio.sleep(0.1)
            seconds = await asyncio.gather(
                closed_after(port, b""),
                closed_after(port, b"GET / HTTP/1.1\r\nX: ", b"x"),  # a letter now and then does not help
                closed_after(port, POST, b"x"),
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(1)  # nothing is read meanwhile
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(8000000)
            writer.close()
            server.should_exit = True
            await running
        return seconds

    nothing, slow_head, slow_body = asyncio.run(scenario())
    assert 0.2 < nothing < 2
    assert 0.2 < slow_head < 2
    assert 0.4 < slow_body < 3
