"""Command lines: known commands with options that hold nonsense, and words that mean nothing."""

import os
import pathlib

from PIL import Image
from typer.testing import CliRunner

from ahs_seg_jax.cli.app import app
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent

NUMBERS = ("-1", "0", "1", "5", "64", "300", "99999", "100000000000000000000", "nan", "inf", "-inf", "x", "", "\u00b2")
WORDS = (
    "",
    "x",
    "~nosuchuser/x",
    "/etc/passwd",
    "/dev/null",
    "/proc/self/mem",
    ".",
    "/",
    "tiny",
    "native",
    "--",
    "\u00e9",
)
OPTIONS = {
    "segment": {
        "--classes": ("grass; sand", "grass", "", ";", "grass; grass", "a\0b", "{}", "x" * 500, "grass; \uff47rass"),
        "--classes-file": WORDS,
        "--model": WORDS,
        "--protocol": ("model", "whole", "cat_seg", "x", ""),
        "--unknown": (*NUMBERS, "none", "grass", "wall; sky"),
        "--windows": ("native", "native", "x"),
        "--window": NUMBERS,
        "--stride": NUMBERS,
        "--overlap": NUMBERS,
        "--blend": ("smooth", "mean", "x"),
        "--keep": (*NUMBERS, "model", "all"),
        "--memory-gb": NUMBERS,
        **{flag: () for flag in ("--plan", "--coco", "--heat-maps", "--overwrite", "--global-view", "--nothing")},
    },
    "compare": {"--classes": ("grass; sand", "grass; sky", ""), "--model": ("tiny", "x"), "--memory-gb": NUMBERS},
    "convert": {"--to": ("orbax", "catseg", "hf_clip", "x"), "--merge": (), "--nothing": ()},
    "parity": {"--nothing": (), "--benchmarks": WORDS},
    "benchmark": {"--repeats": ("x", "-1"), "--nothing": ()},
    "components": {"--nothing": (), "--model": ("x", "/etc/passwd")},
    "nothing": {"--help": ()},
    "data": {"--help": (), "x": ()},
}


class Attack(Kind):
    mistakes = (ValueError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        image = Image.radial_gradient("L").resize((40, 32)).convert("RGB")
        for name in ("a.png", "a.tif", "b.jpg"):
            image.save(folder / name)
        (folder / "text.png").write_text("no image")
        (folder / "empty").mkdir()
        self._images = [
            str(folder / name) for name in ("a.png", "a.tif", "b.jpg", "text.png", "none.png", "*.png", "empty")
        ]

    def run(self, rng):
        command = mutations.pick(rng, ("segment",) * 8 + tuple(OPTIONS))
        known, given = OPTIONS[command], [command]
        if command in ("segment", "compare"):
            images = (*self._images[:2] * 3, *self._images, *WORDS[:4])
            given += [mutations.pick(rng, images) for _ in range(int(rng.integers(0, 3)))]
            given += [
                "--output",
                str(self.folder / mutations.pick(rng, ("out", "out", "a.png", "out/x/y", "text.png/x"))),
            ]
            if rng.random() < 0.8:
                given += ["--classes", "grass; sand"]
        elif command in ("convert", "parity"):
            given += [mutations.pick(rng, (*WORDS, self._images[0])) for _ in range(int(rng.integers(0, 3)))]
            given = [word for word in given if word != "tiny"]
        if command == "benchmark":
            given += ["--repeats", "x"]  # without a mistake it takes a minute
        for _ in range(int(rng.integers(0, 4))):
            option = mutations.pick(rng, list(known))
            given += [option, mutations.pick(rng, known[option])] if known[option] else [option]
        tried(given)

    def is_clear(self, said):
        return is_clear(said)


def tried(given: list[str]) -> None:
    """Runs a command line. Raises ValueError with what it says if it ends with another exit code than 0.

    Raises RuntimeError for a traceback, and Silent if it shows a file of the system.
    """
    result = CliRunner().invoke(app, given)
    said = result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise RuntimeError(f"{given}: {type(result.exception).__name__}: {result.exception}")
    if "Traceback" in said:
        raise RuntimeError(f"{given}: {said[-300:]}")
    if any(secret in said for secret in ("root:x:0:0", "root:*:0:0")):
        raise Silent(f"{given}: {said[-300:]}")
    if result.exit_code:
        raise ValueError(f"{result.exit_code} {said[:300].strip()} ... {said[-300:].strip()}")


def is_clear(said: str) -> bool:
    """Whether what a command says tells what to change."""
    parts = ("error: ", "Error: ", "failed: ", ": FAILED", "Error ", "Usage:", "no image at", "is not an image")
    return any(part in said for part in parts)
