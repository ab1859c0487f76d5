"""What README and the documentation show is run: Python blocks, and every `ahs-seg` line that needs no other machine.

Each page has a folder of its own with the files that it speaks of. Models that would be downloaded or trained for hours
are stood in for by the packaged small one. The command lines of `python -m ...` and of scripts are parsed by
tests/scripts/test_command_lines.py.
"""

import re
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ahs_seg_jax import Segmenter
from ahs_seg_jax.checkpoints.converted import save_converted
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.cli.app import app
from ahs_seg_jax.demo.examples import examples
from tests.support import ROOT, films, tiffs

GENERATED = {"ablation.md", "performance.md", "scaling.md", "what_was_tried.md"}  # made by scripts, from files
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name not in GENERATED)]
STAND_INS = {"catseg-vitb16": "tiny", "clip-vitb16": "tiny"}
ELSEWHERE = {  # what is only asked for its help: it needs an account, a bucket, hours, or never ends
    "demo": "a server", "serve": "a server", "push": "an account", "train": "hours", "evaluate": "data sets",
    "data": "data sets", "benchmark": "minutes",
}  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(path, languages):
    return [code for language, code in FENCE.findall(path.read_text("utf-8")) if language in languages]


def command_lines(path):
    """Every `ahs-seg` line as words, remarks left out."""
    text = "\n".join(blocks(path, ("", "sh", "console"))).replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ahs-seg ")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The packaged model as a converted folder, and beside it as a PyTorch file."""
    path = save_converted(tmp_path_factory.mktemp("model") / "tiny", load_pretrained("tiny"))
    done = CliRunner().invoke(app, ["convert", str(path), str(path.with_name("model_base.pth")), "--to", "ahs_seg"])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, small):
    """The working directory that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(np.asarray(examples()[0].image))
    (tmp_path / "photos").mkdir()
    (tmp_path / "runs").mkdir()
    for name in ("scene.png", "photo.jpg", "photos/a.jpg", "photos/b.png"):
        picture.save(tmp_path / name)
    (tmp_path / "runs" / "vitb").symlink_to(small)
    (tmp_path / "model_base.pth").symlink_to(small.with_name("model_base.pth"))
    (tmp_path / "names.txt").write_text("cat, kitten\nwooden floor\n")
    tiffs.write(tmp_path / "map.tif", np.asarray(picture), crs="EPSG:25833", transform=tiffs.PLACE)
    return tmp_path


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, ("python",))], ids=lambda p: p.name)
def test_python_blocks(path, folder):
    segmenter = Segmenter.from_pretrained("tiny")
    scope = {"names": ["red toy", "grass"], "segmenter": segmenter, "Segmenter": Segmenter}
    scope["images"] = [np.asarray(examples()[0].image)]
    scope["array"] = scope["images"][0]
    scope["result"] = segmenter("scene.png", scope["names"])
    scope["truths"] = [scope["result"].labels]
    for number, code in enumerate(blocks(path, ("python",))):
        for name, stand_in in STAND_INS.items():
            code = code.replace(f'"{name}"', f'"{stand_in}"')
        exec(compile(code, f"{path.name}, block {number}", "exec"), scope)


LINES = {
    f"{path.name}: {' '.join(words)[:70]}": words
    for path in PAGES
    for words in command_lines(path)
    if not words[0].startswith("-")
}


@pytest.mark.parametrize("line", LINES)
def test_command_lines(line, folder):
    words = LINES[line]
    if any(word.endswith(".mp4") for word in words):
        films.write(folder / "clip.mp4", [np.asarray(examples()[0].image)] * 7)
    if words[0] != "models":
        words = [STAND_INS.get(word, word) for word in words]
    name = words[0]
    if name in ELSEWHERE or any(word.startswith(("gs://", "s3://")) for word in words):
        words = [*words[: 2 if name == "data" else 1], "--help"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


def test_there_is_something_to_run():
    assert len(LINES) > 10
    assert sum(len(blocks(path, ("python",))) for path in PAGES) >= 3
