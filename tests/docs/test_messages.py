"""Messages name the page that says more: their words are the program's, and troubleshooting quotes them."""

import ast
import re

import pytest

from ahs_seg_jax import errors
from ahs_seg_jax.cli import options
from tests.support import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")


def texts_of_the_program():
    """Every text in the package, with "{}" for what is filled in; but not the table itself."""
    for path in sorted((ROOT / "ahs_seg_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in errors.PAGES:
                yield node.value


def test_the_words_are_those_of_messages():
    texts = "\n".join(texts_of_the_program())
    assert not [words for words in errors.PAGES if words not in texts]


def slug(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def test_a_quoted_message_leads_to_its_section():
    quotes = 0
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        heading, _, body = section.partition("\n")
        for quote in re.findall(r"^> (.+)$", body, re.M):
            assert errors.page(quote) == f"docs/troubleshooting.md#{slug(heading)}", quote
            quotes += 1
    own = {place.partition("#")[2] for place in errors.PAGES.values() if place.startswith("troubleshooting.md#")}
    assert own <= {slug(heading) for heading in re.findall(r"^## (.+)$", PAGE, re.M)}
    assert quotes >= len(own)


def test_a_command_prints_the_page(capsys):
    def fails():
        raise ValueError("a.tif has 4 bands and does not say which are red, green and blue; give --bands")

    with pytest.raises(options.typer.Exit):
        options.mistakes(fails)
    assert capsys.readouterr().err == (
        "error: a.tif has 4 bands and does not say which are red, green and blue; give --bands\n"
        "(more: docs/segmenting.md#rasters)\n"
    )


def test_a_traceback_has_the_page_and_the_message_has_not():
    error = errors.CheckpointError("damaged: a.npz is not what was written there")
    assert str(error) == "damaged: a.npz is not what was written there"
    assert error.__notes__ == ["more: docs/troubleshooting.md#damaged-files"]
    assert not hasattr(errors.InputError("something else"), "__notes__")
    assert errors.told(ValueError("something else")) == "error: something else"
