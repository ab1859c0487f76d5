"""The page in a real headless browser, with the packaged model: what a visitor does, sees, and does wrong."""

import importlib.util
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import wait_until_it_listens

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not pathlib.Path(CHROMIUM).is_file(), reason="no chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("gradio", "playwright"))), reason="needs the extras demo and test"
    ),
]
# Without these chromium looks for its maker's servers at every start.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIMITS = ("--max-classes", "12", "--max-upload-mb", "2", "--max-megapixels", "1")
WAIT = 60_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    folder = tmp_path_factory.mktemp("demo")
    environment = dict(os.environ) | {"TMPDIR": str(folder), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "ahs_seg_jax", "demo", "--port", str(port), *LIMITS]
    with (folder / "log").open("w") as log:
        # A shell in the background has it ignored, and so would the server.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        signal.signal(signal.SIGINT, before)
    try:
        wait_until_it_listens(server, port, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=60)
    said = (folder / "log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    assert not list(folder.glob("ahs_seg_demo_*")), "uploads were left behind"


@pytest.fixture
def page(address):
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": 940})
        page.set_default_timeout(WAIT)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("table.areas")
        yield page
        outside = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
        browser.close()
    assert not outside, f"the page asked for {outside}"


def names(page) -> set[str]:
    return set(page.locator("table.areas tbody th").all_inner_texts())


def segment(page, words: str) -> None:
    page.locator("#words textarea").fill(words)
    page.locator("#segment").click()


def expect_message(page, pattern: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#message .message")).to_have_text(re.compile(pattern))


def test_results_at_once_and_other_words_without_encoding_again(page):
    from playwright.sync_api import expect

    assert names(page) == {"grass", "brick wall", "striped red toy", "striped blue toy", "striped purple toy"}
    before = page.locator("#overlay img").get_attribute("src")
    segment(page, "grass\nbrick wall\n<b>toy</b>")
    expect_message(page, "3 names, .* features were kept")
    assert names(page) <= {"grass", "brick wall", "<b>toy</b>"}
    expect(page.locator("#overlay img")).not_to_have_attribute("src", before)
    page.get_by_role("tab", name="Confidence").click()
    expect(page.locator("#confidence img")).to_be_visible()


def test_another_example_brings_its_words(page):
    from playwright.sync_api import expect

    page.locator("#examples button").nth(4).click()
    expect(page.locator("#words textarea")).to_have_value(re.compile("^water\nblue toy\ndotted yellow toy"))
    expect(page.locator("table.areas tbody th", has_text="dotted yellow toy")).to_be_visible()


def test_an_upload(page, tmp_path):
    # Two plain halves, the left one yellow: the size and the words of the visitor.
    image = np.full((120, 200, 3), (30, 90, 230), np.uint8)
    image[:, :100] = (250, 210, 40)
    Image.fromarray(image).save(tmp_path / "halves.png")
    page.get_by_label("Remove Image").first.click()
    expect_message(page, "Upload an image, or pick an example")
    page.locator("#image input[type=file]").set_input_files(tmp_path / "halves.png")
    expect_message(page, "200 x 120 pixels, 10 names")


def test_mistakes_are_sentences_and_no_old_picture_stays(page, tmp_path):
    from playwright.sync_api import expect

    segment(page, " \n")
    expect_message(page, "Type at least one name")
    expect(page.locator("#overlay img")).to_have_count(0)
    expect(page.locator("table.areas")).to_have_count(0)
    segment(page, ";".join(f"name {number}" for number in range(13)))
    expect_message(page, "These are 13 names; this page takes 12")
    segment(page, "grass; sand")
    expect_message(page, "2 names")

    for name, data, pattern in (
        ("broken.png", b"\x89PNG no image", r"broken\.png is not an image"),
        ("large.png", None, r"large\.png has 1100 x 1000 = 1 megapixels; the limit is 1"),
    ):
        file = tmp_path / name
        if data is None:
            Image.new("RGB", (1100, 1000)).save(file)
        else:
            file.write_bytes(data)
        page.get_by_label("Remove Image").first.click()
        page.locator("#image input[type=file]").set_input_files(file)
        expect_message(page, pattern)
        expect(page.locator("#overlay img")).to_have_count(0)

    (tmp_path / "heavy.png").write_bytes(bytes(2_200_000))
    page.get_by_label("Remove Image").first.click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "heavy.png")
    expect(page.get_by_text(re.compile("maximum allowed size of 2")).first).to_be_visible()
