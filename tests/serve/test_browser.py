"""The server's page of the API in a real headless browser: a form is filled in and sent, and nothing else is asked."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.demo.test_browser import CHROMIUM, FLAGS, WAIT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not pathlib.Path(CHROMIUM).is_file(), reason="no chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("fastapi_offline", "playwright"))),
        reason="needs the extras serve and test",
    ),
]


def test_the_page_sends_a_form(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    from ahs_seg_jax.admission import Hosts
    from ahs_seg_jax.serve.app import build
    from tests.serve.test_app import LIMITS, Halves
    from tests.support.serving import Running

    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "photo.png")
    running = Running(build(Halves(), LIMITS, Hosts.of("127.0.0.1"), "A test."), LIMITS)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1100, "height": 1400})
            page.set_default_timeout(WAIT)
            expect.set_options(timeout=WAIT)
            asked, broken = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: broken.append(str(error)))
            page.goto(f"http://127.0.0.1:{running.port}/docs")
            page.locator(".opblock-summary", has_text="/segment").first.click()
            page.get_by_role("button", name="Try it out").click()
            page.locator("tr[data-param-name=image] input[type=file], input[type=file]").first.set_input_files(
                tmp_path / "photo.png"
            )
            page.locator("[data-property-name=names] input, [data-property-name=names] textarea").first.fill(
                "cat; sofa"
            )
            page.locator("[data-property-name=format] select").first.select_option("areas")
            page.get_by_role("button", name="Execute").click()
            answer = page.locator(".responses-table.live-responses-table .highlight-code").first
            expect(answer).to_contain_text('"pixels": 12')
            page.screenshot(path=tmp_path / "page.png", full_page=True)
            shown = json.loads(answer.locator("code").first.inner_text())
            browser.close()
    finally:
        running.stop()
    assert shown["names"] == ["cat", "sofa"]
    assert all(url.startswith((f"http://127.0.0.1:{running.port}/", "data:", "blob:")) for url in asked), asked
    assert not broken
