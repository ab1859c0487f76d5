"""Measured figures of README and docs/, and the files that they come from.

    python scripts/docs_figures.py           # lists them
    python scripts/docs_figures.py --check   # fails if one has no file, or says something else

A figure is a number with a unit of time, memory or score. Between a script's own markers (`<!-- speed -->` ...
`<!-- end speed -->`) that script answers for it. Elsewhere a line above the paragraph names the files that have the
number in them, also as a share or in another unit (`<!-- figures: results/tiny/scenes_val.json -->`), or says that
nothing was measured there (`<!-- limits -->`). Quoted messages are examples. A picture must be named by the script
that draws it.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
UNITS = r"s|ms|h|min|minutes?|seconds?|hours?|[kMG]B|[KMG]iB|TFLOP|GFLOP|GFLOP/s|images/s|%|times|points?|a call"
NUMBER = r"\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(rf"(?<![\w.])({NUMBER})(?: ({UNITS})(?![\w/])|(?= to {NUMBER} (?:{UNITS})\b))|mIoU ({NUMBER})")
MARKED = re.compile(r"<!-- (figures: (?P<files>.+)|limits) -->")
SCALES = (1, 100, 1e-3, 1e-6, 1e-9, 2**-20, 2**-30, 1e3, 1 / 60)
DRAWN_BY = ("scripts", "benchmarks", "tests")


def paragraphs(text: str) -> Iterator[tuple[str, list[str] | None]]:
    """(paragraph, files named above it: None where nothing is, [] for limits); without other scripts' regions."""
    text = re.sub(r"<!-- ([\w -]+) -->\n.*?<!-- (?:end |/)\1 -->", "", text, flags=re.S)
    text = re.sub(r"^```.*?^```|^>.*?$", "", text, flags=re.S | re.M)
    files: list[str] | None = None
    for part in re.split(r"\n\s*\n", text):
        found = MARKED.search(part)
        if found:
            files = found["files"].split(", ") if found["files"] else []
        body = MARKED.sub("", part).strip()
        if body:
            yield body, files
            files = None


def figures(paragraph: str) -> list[str]:
    """The measured numbers of a paragraph, as they are written; code is left out."""
    plain = re.sub(r"`[^`]*`", "", paragraph)
    return [found[1] or found[3] for found in FIGURE.finditer(plain)]


def numbers(text: str) -> list[float]:
    """Every number in a file."""
    return [float(found.replace(",", "")) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def holds(known: Sequence[float], written: str) -> bool:
    """Whether one of the numbers, perhaps in another unit, is the written one when it is rounded likewise."""
    wanted, digits = float(written.replace(",", "")), len(written.partition(".")[2])
    half = 0.5 * 10.0**-digits * (1 + 1e-9)
    return any(abs(value * scale - wanted) <= half for value in known for scale in SCALES)


def problems(page: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """What is wrong with a page, one sentence each."""
    found, name = [], page.relative_to(root).as_posix()
    text = page.read_text("utf-8")
    for paragraph, files in paragraphs(text):
        written = figures(paragraph)
        if not written or files == []:
            continue
        start = " ".join(paragraph.split())[:60]
        if files is None:
            found.append(f"{name}: {', '.join(written)} in {start!r}... names no file")
            continue
        missing = [file for file in files if not (root / file).is_file()]
        found += [f"{name}: there is no {file}" for file in missing]
        known = numbers("\n".join((root / file).read_text("utf-8") for file in files if file not in missing))
        absent = [number for number in written if not holds(known, number)]
        found += [f"{name}: {', '.join(absent)} in {start!r}... is in none of {', '.join(files)}"] if absent else []
    code = [path.read_text("utf-8") for folder in DRAWN_BY for path in sorted((root / folder).rglob("*.py"))]
    for picture in re.findall(r"!\[[^\]]*\]\(\S*?images/([^)]+)\)", text):
        if not any(picture in lines for lines in code):
            found.append(f"{name}: no script draws {picture}")
    return found


def pages(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """README and all pages."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints figures and files, or what is wrong; returns the exit code."""
    given = parse(arguments)
    if given.check:
        found = [problem for page in pages() for problem in problems(page)]
        print("\n".join(found) or "every figure has its file", file=sys.stderr if found else sys.stdout)
        return 1 if found else 0
    for page in pages():
        for paragraph, files in paragraphs(page.read_text("utf-8")):
            if written := figures(paragraph):
                print(f"{page.relative_to(ROOT)}: {', '.join(written)}: {files}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
