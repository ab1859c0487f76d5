"""Result files, which hold one record for each benchmark and its settings, and the Markdown pages made from them."""

import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ahs_seg_jax.storage import writing

Record = dict[str, Any]


def key(name: str, asked: Mapping[str, Any]) -> str:
    """What tells a record from others: the benchmark and what was asked for."""
    return f"{name} {json.dumps(asked, sort_keys=True)}"


def read(path: pathlib.Path) -> list[Record]:
    """The records of a file; none if there is no file. Raises ValueError if it is not a results file."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        return list(found["records"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results file ({error}); delete it or choose another --output") from error


def add(path: pathlib.Path, record: Record) -> None:
    """Writes the file with this record in the place of an older one with the same key."""
    records = [old for old in read(path) if old["key"] != record["key"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_text(path, json.dumps({"records": [*records, record]}, indent=1))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def marked(page: str, blocks: Mapping[str, str]) -> str:
    """The page with the text between `<!-- name -->` and `<!-- end name -->` replaced, for each name of `blocks`.

    Raises ValueError if the page lacks the two markers of a name.
    """
    for name, text in blocks.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        found = pattern.search(page)
        if not found:
            raise ValueError(
                f"the page has no lines <!-- {name} --> and <!-- end {name} --> to put the figures between"
            )
        page = f"{page[: found.end(1)]}{text.rstrip()}\n{page[found.start(2) :]}"
    return page


def write_or_check(pages: Mapping[pathlib.Path, str], check: bool, remedy: str) -> int:
    """Writes the texts to the pages or, with `check`, writes nothing and prints how the pages differ from the texts.

    Returns the exit code: 1 if `check` found a difference, else 0.
    """
    code = 0
    for path, made in pages.items():
        if not check:
            path.write_text(made, encoding="utf-8")
        elif (said := path.read_text(encoding="utf-8")) != made:
            ours, theirs = said.splitlines(), made.splitlines()
            changed = [f"- {line}" for line in ours if line not in theirs]
            changed += [f"+ {line}" for line in theirs if line not in ours]
            shown = changed or ["(the same lines in another order)"]
            print(f"error: {path} differs from the files it is made from:", *shown, remedy, sep="\n", file=sys.stderr)
            code = 1
    return code
