"""Runs the blocks of README and docs/ whose output the pages show, and writes what they print today into the pages.

    python -m scripts.docs_outputs

A page shows an output in a `text` block below the line `<!-- printed -->`; tests/docs/test_blocks.py compares it.
"""

import argparse
import contextlib
import pathlib
import tempfile
from collections.abc import Sequence

from tests.support import pages


def refreshed(path: pathlib.Path) -> str:
    """The text of a page with today's outputs; its blocks are run in the working directory."""
    outputs = {block.place: said for block, said in pages.run_python(path) if block.printed is not None}
    for block in pages.shell_blocks(path):
        if block.printed is not None:
            outputs[block.place] = "".join(pages.run_line(words) for words in pages.command_lines(block.code))
    text = path.read_text("utf-8")
    for (start, end), said in sorted(outputs.items(), reverse=True):
        text = text[:start] + said.rstrip("\n") + "\n" + text[end:]
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args(arguments)


def main() -> None:
    """Every page with outputs, each in a folder of its own."""
    parse()
    with tempfile.TemporaryDirectory() as scratch:
        small = pages.small_model(pathlib.Path(scratch))
        for path in pages.PAGES:
            if any(block.printed is not None for block in pages.blocks(path)):
                folder = pathlib.Path(scratch, path.stem)
                folder.mkdir()
                pages.prepare(folder, small)
                with contextlib.chdir(folder):
                    text = refreshed(path)
                if text != path.read_text("utf-8"):
                    path.write_text(text, "utf-8")
                    print(f"{path.name} says now what its blocks print")


if __name__ == "__main__":
    main()
