"""The pages of the documentation: their blocks, the folder that they speak of, and what their blocks print.

Each page is run in a folder of its own with the files that it speaks of. Models that would be downloaded or trained for
hours are stood in for by the packaged small one.
"""

import contextlib
import dataclasses
import io
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
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
STAND_INS = {"catseg-vitb16": "tiny", "clip-vitb16": "tiny", "pe-core-vitb16": "tiny"}
ELSEWHERE = {  # what is only asked for its help: it needs an account, a bucket, hours, or never ends
    "demo": "a server", "serve": "a server", "push": "an account", "train": "hours", "evaluate": "data sets",
    "data": "data sets", "benchmark": "minutes",
}  # fmt: skip
BLOCK = re.compile(r"^(<!-- printed -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code, what the page says that it prints (None: nothing), and where that stands in the page."""

    language: str
    code: str
    printed: str | None = None
    place: tuple[int, int] = (0, 0)


def blocks(path: pathlib.Path) -> list[Block]:
    """The blocks of a page in their order."""
    found: list[Block] = []
    for match in BLOCK.finditer(path.read_text("utf-8")):
        if match[1]:
            found[-1] = dataclasses.replace(found[-1], printed=match[3], place=match.span(3))
        else:
            found.append(Block(match[2], match[3]))
    return found


def python_blocks(path: pathlib.Path) -> list[Block]:
    """Those of Python."""
    return [block for block in blocks(path) if block.language == "python"]


def shell_blocks(path: pathlib.Path) -> list[Block]:
    """Those of a shell."""
    return [block for block in blocks(path) if block.language in ("", "sh", "console")]


def command_lines(code: str) -> list[list[str]]:
    """Every `ahs-seg` line of a block as words, remarks left out."""
    lines = (line.strip() for line in code.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ahs-seg ")]


def small_model(folder: pathlib.Path) -> pathlib.Path:
    """The packaged model as a converted folder, and beside it as a PyTorch file."""
    path = save_converted(folder / "tiny", load_pretrained("tiny"))
    done = CliRunner().invoke(app, ["convert", str(path), str(path.with_name("model_base.pth")), "--to", "ahs_seg"])
    assert done.exit_code == 0, done.output
    return path


def prepare(folder: pathlib.Path, small: pathlib.Path) -> None:
    """Makes the working directory that the pages speak of."""
    picture = Image.fromarray(np.asarray(examples()[0].image))
    (folder / "photos").mkdir()
    (folder / "runs").mkdir()
    for name in ("scene.png", "photo.jpg", "photos/a.jpg", "photos/b.png"):
        picture.save(folder / name)
    for run in ("vitb", "tiny", "siglip2"):
        (folder / "runs" / run).symlink_to(small)
    (folder / "model_base.pth").symlink_to(small.with_name("model_base.pth"))
    (folder / "names.txt").write_text("cat, kitten\nwooden floor\n")
    tiffs.write(folder / "map.tif", np.asarray(picture), crs="EPSG:25833", transform=tiffs.PLACE)


def run_python(path: pathlib.Path) -> Iterator[tuple[Block, str]]:
    """Runs the Python blocks of a page, one after another, in the working directory: each, and what it printed."""
    segmenter = Segmenter.from_pretrained("tiny")
    scope: dict[str, Any] = {"names": ["red toy", "grass"], "segmenter": segmenter, "Segmenter": Segmenter}
    scope["images"] = [np.asarray(examples()[0].image)]
    scope["array"] = scope["images"][0]
    scope["result"] = segmenter("scene.png", scope["names"])
    scope["truths"] = [scope["result"].labels]
    for number, block in enumerate(python_blocks(path)):
        code = block.code
        for name, stand_in in STAND_INS.items():
            code = code.replace(f'"{name}"', f'"{stand_in}"')
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, f"{path.name}, block {number}", "exec"), scope)
        yield block, said.getvalue()


def run_line(words: Sequence[str]) -> str:
    """Runs a line of `ahs-seg` in the working directory; returns what it printed. Fails if the line does."""
    if any(word.endswith(".mp4") for word in words):
        films.write(pathlib.Path("clip.mp4"), [np.asarray(examples()[0].image)] * 7)
    if words[0] != "models":
        words = [STAND_INS.get(word, word) for word in words]
    name = words[0]
    if name in ELSEWHERE or any(word.startswith(("gs://", "s3://")) for word in words):
        words = [*words[: 2 if name == "data" else 1], "--help"]
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def alike(written: str, printed: str) -> bool:
    """The same words, and numbers within 2 %: machines round differently."""
    if NUMBER.sub("#", written) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(written), NUMBER.findall(printed), strict=True)
    return all(abs(float(ours) - float(theirs)) <= 0.02 * abs(float(theirs)) for ours, theirs in pairs)
