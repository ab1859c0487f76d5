"""Files that are no configurations end in one message that names them."""

import keyword

import pytest

from ahs_seg_jax.config import load
from ahs_seg_jax.errors import InputError


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc", "/dev/zero", "no/such.py", "", "~/x.py", "a\0b.py"])
def test_what_is_no_python_file(path):
    with pytest.raises(InputError, match=r"is no Python file with a get_config\(\); configs/tiny.py is one"):
        load(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def get_config(", "SyntaxError"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("def get_config(variant):\n    return missing\n", "line 2: NameError"),
        ("def get_config():\n    return 7\n", "TypeError"),
        ("import no_such_library\n", "line 1: ModuleNotFoundError"),
    ],
)
def test_a_file_that_fails_is_named_with_the_line(tmp_path, text, cause):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.py cannot be run as a configuration: ") as caught:
        load(file)
    assert cause in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "mine.py"
    file.write_bytes(b"\xff\0\xfe")
    with pytest.raises(InputError, match=r"mine\.py cannot be run as a configuration: "):
        load(file)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x = 1\n", r"is no Python file with a get_config\(\)"),
        ("get_config = 3\n", r"is no Python file with a get_config\(\)"),
        (
            "def get_config(variant):\n    return {}\n",
            "has a get_config.. that gives a dict; it must give a ConfigDict",
        ),
    ],
)
def test_a_file_without_a_configuration(tmp_path, text, cause):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError, match=cause):
        load(file)


def test_a_module_of_python_itself():
    with pytest.raises(InputError, match=r"is no Python file with a get_config\(\)"):
        load(keyword.__file__)
