"""Links that open the notebooks in Colab, by the address of the repository that pyproject.toml states.

    python scripts/colab_links.py           # writes them into colab/*.ipynb, or removes them where there is no address

Colab opens notebooks of public repositories only, so that there are no links before the repository has an address:
`Repository = "https://github.com/OWNER/NAME"` below `[project.urls]`.
"""

import argparse
import json
import pathlib
import re
import tomllib
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
BRANCH = "main"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def linked(notebook: str, name: str, repository: str) -> str:
    """The text of a notebook with the link at its top, or without one if `repository` is empty.

    Raises ValueError for an address that Colab cannot open.
    """
    content = json.loads(notebook)
    source = [line for line in content["cells"][0]["source"] if not line.startswith(BADGE)]
    while source and not source[0].strip():
        source = source[1:]
    if repository:
        found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git|/)?", repository)
        if not found:
            raise ValueError(f"Repository is {repository!r}; Colab opens what lies at https://github.com/OWNER/NAME")
        address = f"https://colab.research.google.com/github/{found[1]}/blob/{BRANCH}/colab/{name}"
        source = [f"{BADGE}({address})\n", "\n", *source]
    content["cells"][0]["source"] = source
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args(arguments)


def main() -> None:
    """Writes every notebook anew."""
    parse()
    about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        text = linked(path.read_text("utf-8"), path.name, about.get("urls", {}).get("Repository", ""))
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
