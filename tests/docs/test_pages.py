"""What holds for every page: its figures have files, every extra and page is named, guides are short."""

import json
import re
import tomllib

from scripts import docs_figures
from tests.support import ROOT


def test_every_figure_has_its_file():
    assert [problem for page in docs_figures.pages() for problem in docs_figures.problems(page)] == []


def test_figures_without_a_file_and_others_than_the_file_s_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "a.json").write_text(json.dumps({"seconds": 1.2349, "bytes": 2_500_000_000, "mIoU": 74.13}))
    page = tmp_path / "docs" / "a.md"
    page.write_text(
        "It takes 3 s.\n\n<!-- figures: a.json -->\nNow 1.23 s, 1235 ms, 2.5 GB and mIoU 74.1; not 9.87 s.\n\n"
        "<!-- limits -->\nAt most 20 MiB.\n\n> it took 9 s\n\n`5 s` of 7 images, 16x16 patches, 3 times 4\n\n"
        "<!-- speed -->\n| 9 s |\n<!-- end speed -->\n\n![A](images/none.png)\n"
    )
    assert docs_figures.problems(page, tmp_path) == [
        "docs/a.md: 3 in 'It takes 3 s.'... names no file",
        "docs/a.md: 9.87 in 'Now 1.23 s, 1235 ms, 2.5 GB and mIoU 74.1; not 9.87 s.'... is in none of a.json",
        "docs/a.md: 3 in '`5 s` of 7 images, 16x16 patches, 3 times 4'... names no file",
        "docs/a.md: no script draws none.png",
    ]


def test_every_page_is_in_the_navigation():
    shown = set(re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert shown == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_extra_is_explained():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    page = (ROOT / "docs" / "start.md").read_text("utf-8")
    assert not [extra for extra in extras if f"`{extra}`" not in page and f"[{extra}]" not in page]
