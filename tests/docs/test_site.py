"""The built site: strictly, with every place that a message names; in a browser: readable, short, and for everybody."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ahs_seg_jax import errors
from tests.demo.test_browser import CHROMIUM, FLAGS, WAIT
from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("zensical"), reason="needs the extra docs"),
]
IN_A_BROWSER = pytest.mark.skipif(
    not pathlib.Path(CHROMIUM).is_file()
    or not all(map(importlib.util.find_spec, ("playwright", "axe_playwright_python"))),
    reason="needs chromium (Debian: apt-get install chromium) and the extra test",
)
# What people look things up in; the others are read from top to bottom, on two screens.
REFERENCES = {
    "api",
    "attack",
    "curves",
    "glossary",
    "performance",
    "scaling",
    "towers",
    "training_free_programs",
    "troubleshooting",
    "what_was_tried",
}
SCREEN = 1080  # pixels, of 1920 x 1080
PHONE = 360  # pixels wide
WIDTH_AND_HEIGHT = "[document.scrollingElement.scrollWidth, document.querySelector('article').scrollHeight]"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, made from a copy, so that nothing is left in the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ahs_seg_jax", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "mkdocs.yml", source)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "site"


def test_every_place_that_a_message_names_is_there(site):
    for place in errors.PAGES.values():
        page, _, anchor = place.partition("#")
        text = (site / page).with_suffix(".html").read_text("utf-8")
        assert not anchor or f'id="{anchor}"' in text, place


def test_pictures_have_words_and_pages_one_heading_and_tables_are_tables(site):
    for path in sorted(site.glob("*.html")):
        text = path.read_text("utf-8")
        assert not re.findall(r"<p>(?:[^<]*\n)?(?:\||[-*] )[^<]*", text), f"{path.name}: a blank line is missing"
        for picture in re.findall(r"<img [^>]*>", text):
            assert re.search(r'alt="[^"]{10,}"', picture), (path.name, picture)
        assert len(re.findall(r"<h1", text)) == 1, path.name


@IN_A_BROWSER
def test_pages_in_a_browser(site):
    """No page asks for anything elsewhere, is wider than a phone, or shuts people out (axe-core's rules)."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    problems, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1920, "height": SCREEN})
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        for path in sorted({*site.glob("*.html")} - {site / "404.html"}):  # that one is the theme's own
            page.set_viewport_size({"width": 1920, "height": SCREEN})
            page.goto(path.as_uri())
            height = page.evaluate(WIDTH_AND_HEIGHT)[1]
            if path.stem not in REFERENCES and height > 2 * SCREEN:
                problems.append(f"{path.name} is {height / SCREEN:.1f} screens long")
            for violation in Axe().run(page).response["violations"]:
                where = "; ".join(node["html"][:100] for node in violation["nodes"][:3])
                problems.append(f"{path.name}: {violation['id']} ({violation['help']}): {where}")
            page.set_viewport_size({"width": PHONE, "height": 740})
            if (width := page.evaluate(WIDTH_AND_HEIGHT)[0]) > PHONE:
                problems.append(f"{path.name} is {width} pixels wide on a phone")
        browser.close()
    assert not problems, "\n".join(problems)
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
