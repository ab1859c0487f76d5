"""What README and the documentation show is run: Python blocks, and every `ahs-seg` line that needs no other machine.

What a page says that a block prints is compared. The command lines of `python -m ...` and of scripts are parsed by
tests/scripts/test_command_lines.py.
"""

import pytest

from tests.support import pages


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return pages.small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path, monkeypatch, small):
    """The working directory that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    pages.prepare(tmp_path, small)
    return tmp_path


@pytest.mark.parametrize("path", [p for p in pages.PAGES if pages.python_blocks(p)], ids=lambda p: p.name)
def test_python_blocks(path, folder):
    for block, said in pages.run_python(path):
        if block.printed is not None:
            assert pages.alike(block.printed, said), (
                f"{path.name} is out of date (python -m scripts.docs_outputs): {said}"
            )


LINES = {
    f"{path.name}: {' '.join(words)[:70]}": (words, block.printed)
    for path in pages.PAGES
    for block in pages.shell_blocks(path)
    for words in pages.command_lines(block.code)
    if not words[0].startswith("-")
}


@pytest.mark.parametrize("line", LINES)
def test_command_lines(line, folder):
    words, printed = LINES[line]
    said = pages.run_line(words)
    if printed is not None:
        assert pages.alike(printed, said), f"out of date (python -m scripts.docs_outputs): {said}"


def test_there_is_something_to_run():
    assert len(LINES) > 10
    assert sum(len(pages.python_blocks(path)) for path in pages.PAGES) >= 3
    printed = [block for path in pages.PAGES for block in pages.blocks(path) if block.printed is not None]
    assert {block.language for block in printed} >= {"python", "sh"}


def test_numbers_may_differ_a_little_and_words_not():
    assert pages.alike("{'grass': 1000}", "{'grass': 1015}")
    assert not pages.alike("{'grass': 1000}", "{'grass': 1030}")
    assert not pages.alike("{'grass': 1000}", "{'sand': 1000}")
    assert not pages.alike("1 2", "1")
