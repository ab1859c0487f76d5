"""The pictures of README and docs/ that show the model and the page, made by the program.

python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny
python scripts/docs_pictures.py runs/tiny           # scenes, their way, what the components learnt
python scripts/docs_pictures.py runs/tiny --page    # and the page in the browser (needs chromium)
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from PIL import Image

from ahs_seg_jax.cli import components
from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.demo.examples import examples
from ahs_seg_jax.pictures import panels
from ahs_seg_jax.segmenter import Segmenter

IMAGES = pathlib.Path(__file__).resolve().parent.parent / "docs" / "images"
SCENES = (25, 36, 21)  # of those that the page in the browser offers
WAIT = 120_000  # milliseconds, for a busy machine


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="working directory of the run")
    parser.add_argument("--page", action="store_true", help="take the picture of the page in the browser, too")
    parser.add_argument("--output", type=pathlib.Path, default=IMAGES)
    return parser.parse_args(arguments)


def draw_scenes(run: str, file: pathlib.Path) -> None:
    """Scenes, their labels and the model's, below one another."""
    source, segmenter = ScenesSource(ScenesConfig(val_images=max(SCENES) + 1), "val"), Segmenter.from_pretrained(run)
    names = source.vocabulary.names
    drawn = []
    for number in SCENES:
        scene = source[number]
        result = segmenter(scene["image"], names)
        drawn.append(panels.panel(scene["image"], scene["label"], result.labels, source.vocabulary))
    Image.fromarray(panels.grid(drawn)).save(file, optimize=True)


def draw_components(run: str, folder: pathlib.Path) -> None:
    """What `ahs-seg components` draws of the first example of the page in the browser."""
    with tempfile.TemporaryDirectory() as scratch:
        scene = pathlib.Path(scratch) / "scene.png"
        Image.fromarray(examples()[0].image).save(scene)
        components.run(run, None, folder, str(scene))


def draw_page(file: pathlib.Path, port: int = 7861) -> None:
    """The page in the browser after its first example."""
    from playwright.sync_api import sync_playwright

    server = subprocess.Popen([sys.executable, "-m", "ahs_seg_jax", "demo", "--port", str(port)])
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1360, "height": 940})
            page.set_default_timeout(WAIT)
            for _ in range(300):
                try:
                    page.goto(f"http://127.0.0.1:{port}")
                    break
                except Exception:
                    page.wait_for_timeout(1000)  # it does not listen yet
            page.wait_for_selector("table.areas")
            page.screenshot(path=file)
    finally:
        server.terminate()
        server.wait(timeout=60)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws what was asked for."""
    given = parse(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    draw_scenes(given.run, given.output / "scenes.png")
    draw_components(given.run, given.output)
    if given.page:
        draw_page(given.output / "page.png")


if __name__ == "__main__":
    main()
