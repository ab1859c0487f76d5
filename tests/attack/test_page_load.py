"""The running page under hundreds of requests of 20 users: everybody is answered, and its memory stays as it is."""

import concurrent.futures
import io
import os
import pathlib
import uuid

import numpy as np
import pytest
from PIL import Image

from tests.attack.test_page_http import ask, events, segment_number, upload

REQUESTS, USERS = int(os.environ.get("AHS_SEG_PAGE_REQUESTS", "200")), 20  # 1,000 take minutes of two cores
IMAGES = 30
FIRST = REQUESTS // 2  # requests after which every cache is full
MOST_GROWTH = 60 * 10**6  # bytes from there to the last one: a result of one request has 1.6


def resident(page):
    lines = pathlib.Path(f"/proc/{page.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def picture(number):
    side = 800 if number % 10 == 0 else 384
    pixels = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_memory_stays_flat(running_page):
    paths = [upload(running_page, f"{number}.png", picture(number)) for number in range(IMAGES)]
    number = segment_number(running_page)

    def visit(request):
        session = uuid.uuid4().hex  # a visitor of its own, whose result the page keeps
        body = {"data": [{"path": paths[request % IMAGES]}, "grass; sand; water", 0.6, 0]}
        body |= {"fn_index": number, "session_hash": session}
        status, text = ask(running_page, "POST", "/gradio_api/queue/join", body)
        if status == 503:
            return "full"  # the queue holds 32; the page says so
        assert status == 200, text
        _, text = ask(running_page, "GET", f"/gradio_api/queue/data?session_hash={session}")
        done = [event for event in events(text) if event["msg"] == "process_completed"]
        assert "pixels, 3 names" in done[0]["output"]["data"][0]
        return "answered"

    seen = {}
    with concurrent.futures.ThreadPoolExecutor(USERS) as users:
        for start in range(0, REQUESTS, 100):
            answered = list(users.map(visit, range(start, start + 100)))
            assert answered.count("answered") == 100
            seen[start + 100] = resident(running_page)
            print(f"{start + 100} requests: {seen[start + 100] / 1e6:.0f} MB", flush=True)
    assert seen[REQUESTS] - seen[FIRST] < MOST_GROWTH
