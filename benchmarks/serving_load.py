"""The server under load on this machine's loopback: times, memory, and slow and malicious clients beside the others.

    python -m benchmarks.serving_load                                  200 requests of 20 clients, the packaged model
    python -m benchmarks.serving_load --requests 1000 --attack         with clients that are slow or mean

It starts `ahs-seg serve` itself and writes a file to benchmarks/results/serving. Every request must be answered; the
exit code is 1 if one was not, or not with the labels of its image's size.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import http.client
import io
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serving"
WORDS = ("grass; sand; brick wall", "water; snow", "grass; red toy, ball; sky; road")  # of the clients, in turn
SIZES = ((240, 320), (384, 384), (480, 640))
TRIES = 20  # of a request that is told to come later
HALF_OPEN, SLOW, BOMBS = 100, 20, 10  # clients of each kind beside the others


def form(image: bytes, **fields: str) -> tuple[bytes, str]:
    """Body and type of a form with an image."""
    edge, lines = "----edge", []
    for name, value in fields.items():
        lines.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    end = f"\r\n--{edge}--\r\n".encode()
    return b"".join([*lines, head.encode(), image, end]), f"multipart/form-data; boundary={edge}"


def photograph(number: int) -> bytes:
    """A JPEG of smooth colours, another one for each number."""
    drawn = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    small = Image.fromarray(drawn.integers(0, 256, (6, 8, 3), np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def ask(port: int, number: int) -> dict[str, Any]:
    """Sends one request, again while the server says 429; seconds until its last answer, and how it ended."""
    body, kind = form(photograph(number), names=WORDS[number % len(WORDS)], format="png")
    started, refused = time.monotonic(), 0
    for _ in range(TRIES):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", "/segment", body, {"Content-Type": kind})
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
        if status != 429:
            break
        refused += 1
        time.sleep(0.5)
    seconds = time.monotonic() - started
    right = status == 200 and Image.open(io.BytesIO(data)).size == SIZES[number % len(SIZES)][::-1]
    return {"seconds": seconds, "status": status, "right": right, "refused": refused}


def resident_mb(process: int) -> float:
    """Memory of a process that is in use, in 1e6 bytes. Linux."""
    pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""
    chunk = lambda kind, data: len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    head = (30000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(3751 * 3000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@contextlib.contextmanager
def attack(port: int) -> Iterator[dict[str, int]]:
    """Half-open connections, slow bodies, huge heads and decompression bombs, as long as the block runs.

    The counts that it yields are complete after the block: what the server answered to whom.
    """
    counts: dict[str, int] = {"half_open": HALF_OPEN, "slow": SLOW}
    connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(HALF_OPEN + SLOW + 1)]
    for slow in connections[:SLOW]:
        slow.sendall(b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n----")
    connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * 2**20)
    body, kind = form(bomb(), names="grass")
    for _ in range(BOMBS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/segment", body, {"Content-Type": kind})
            name = f"bombs_answered_{connection.getresponse().status}"
        counts[name] = counts.get(name, 0) + 1
    yield counts
    for opened in connections:
        opened.close()


@contextlib.contextmanager
def server(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running `ahs-seg serve` and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "ahs_seg_jax", "serve", "--port", str(port), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        try:
            deadline = time.monotonic() + 600
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start:\n{log.read().decode(errors='replace')}")
                time.sleep(0.2)
            yield process, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def measured(requests: int, clients: int, attacked: bool, arguments: list[str]) -> dict[str, Any]:
    """A record of one run."""
    with server(arguments) as (process, port):
        memory = []
        for number in range(clients):  # every size and every words once: what these compile is not load
            ask(port, 10**6 + number)
        memory.append(resident_mb(process.pid))
        with contextlib.ExitStack() as stack:
            counts = stack.enter_context(attack(port)) if attacked else {}
            started = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(clients) as threads:
                answers = []
                for answer in threads.map(lambda number: ask(port, number), range(requests)):
                    answers.append(answer)
                    if len(answers) % max(1, requests // 10) == 0:
                        memory.append(resident_mb(process.pid))
            seconds = time.monotonic() - started
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
    value = lambda name: float(text.partition(f"\n{name} ")[2].partition("\n")[0])
    times = sorted(answer["seconds"] for answer in answers)
    return {
        "requests": requests,
        "clients": clients,
        "lost": sum(not answer["right"] for answer in answers),
        "told_to_come_later": sum(answer["refused"] for answer in answers),
        "seconds": round(seconds, 2),
        "requests_per_second": round(requests / seconds, 2),
        "median_seconds": round(statistics.median(times), 3),
        "p95_seconds": round(times[min(len(times) - 1, int(0.95 * len(times)))], 3),
        "longest_seconds": round(times[-1], 3),
        "images_of_a_call": round(value("ahs_seg_images_together_sum") / value("ahs_seg_images_together_count"), 2),
        "resident_mb": [round(number, 1) for number in memory],
        "attack": counts,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--attack", action="store_true", help="slow and malicious clients beside the others")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--together", type=int, default=8)
    return parser.parse_args(arguments)


def main() -> int:
    """See the file's description."""
    given = parse()
    record = measured(
        given.requests, given.clients, given.attack, ["--model", given.model, "--max-together", str(given.together)]
    )
    from benchmarks import machine

    load = os.getloadavg()[0]
    today = datetime.date.today().isoformat()
    about = {"model": given.model, "together": given.together, "date": today, "load_after": round(load, 1)}
    found = about | record | {"machine": machine.describe()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"load_{found['machine']['platform']}_{today}{'_attack' if given.attack else ''}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 1 if record["lost"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
