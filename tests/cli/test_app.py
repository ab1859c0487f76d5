"""The command line: names, exit codes, one message for a mistake, nothing heavy before a command runs."""

import os
import pathlib
import subprocess
import sys
import typing

import pytest
from typer.testing import CliRunner

import ahs_seg_jax
from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS
from ahs_seg_jax.cli import app as cli
from ahs_seg_jax.cli import compilation_cache, options
from ahs_seg_jax.cli import convert as convert_command


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ) | {compilation_cache.VARIABLE: "off", "COLUMNS": "200"})


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ahs_seg_jax.cli import app\n"
        "for arguments in (['--help'], ['segment', '--help'], ['--version']):\n"
        "    done = CliRunner().invoke(app.app, arguments)\n    assert done.exit_code == 0, done.output\n"
        "print(sorted({'jax', 'flax', 'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = (
    "segment",
    "compare",
    "components",
    "demo",
    "serve",
    "benchmark",
    "models",
    "convert",
    "push",
    "export",
    "parity",
    "doctor",
    "train",
    "evaluate",
    "memory",
    "data",
)


def test_every_command_has_help():
    listed = invoke("--help").output.partition("Commands:\n")[2].partition("\n\n")[0]
    assert tuple(line.split()[0] for line in listed.splitlines()) == COMMANDS
    assert "..." not in listed  # no first sentence is cut off
    for name in (*COMMANDS, "data prepare", "data doctor"):
        assert invoke(*name.split(), "--help").exit_code == 0, name
    assert invoke("--version").output.strip() == f"ahs_seg_jax {ahs_seg_jax.__version__}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give the names once"),
        (["--classes", "cat", "--classes-file", "names.txt"], "give the names once"),
        (["--classes-file", "nowhere.txt"], "no file of class names at nowhere.txt"),
        (["--classes", "cat", "--model", "nowhere"], "error: there is no checkpoint at nowhere. Give a file"),
        (["--classes", "cat", "--stride", "40"], "error: --stride needs --windows native"),
        (["--classes", "cat", "--windows", "native", "--overlap", "2"], "error: the overlap is 2; it must lie within"),
        (["--classes", "cat; Cat"], "error: the vocabulary has 1 problem"),
        (["--classes", ";"], "name 1 is empty"),
        (["--classes", "cat", "--keep", "some"], "--keep is 'some'; give model, auto, all, or a number"),
        (["--classes", "cat", "--protocol", "some"], "'some' is not one of 'model', 'cat_seg', 'whole'"),
        (["--classes", "cat", "--memory-gb", "much"], "'--memory-gb': Input should be a valid number"),
    ],
)
def test_mistakes_are_one_message(arguments, text):
    done = invoke("segment", "a.png", *arguments)
    assert done.exit_code == 2
    assert text in done.output
    assert "Traceback" not in done.output


def test_names_on_the_command_line():
    assert options.names(" cat; sofa,  couch ;wooden floor;", None) == ("cat", "sofa, couch", "wooden floor")


def test_train_and_evaluate_pass_their_arguments_on(monkeypatch):
    from ahs_seg_jax import main

    seen = []
    monkeypatch.setattr(main, "program", seen.append)
    assert invoke("train", "--config=configs/tiny.py:smoke", "--workdir=x", "--config.train.steps=3").exit_code == 0
    assert invoke("evaluate", "--config", "configs/tiny.py", "--workdir", "x").exit_code == 0
    assert seen == [
        ["ahs-seg", "--mode=train", "--config=configs/tiny.py:smoke", "--workdir=x", "--config.train.steps=3"],
        ["ahs-seg", "--mode=eval", "--config", "configs/tiny.py", "--workdir=x"],
    ]


def test_convert_takes_every_format(monkeypatch):
    to = typing.get_type_hints(convert_command.convert, include_extras=True)["to"].__origin__
    assert typing.get_args(to) == ("orbax", *LAYOUTS)
    seen = []
    monkeypatch.setattr(convert_command, "run", lambda *arguments: seen.append(arguments))
    assert invoke("convert", "a.pth", "b", "--to", "catseg", "--merge").exit_code == 0
    assert invoke("convert", "a.pth", "b", "--activation", "gelu").exit_code == 0
    assert seen == [
        ("a.pth", pathlib.Path("b"), "catseg", True, None),
        ("a.pth", pathlib.Path("b"), "orbax", False, "gelu"),
    ]
    assert "'orbax'" in invoke("convert", "a.pth", "b", "--to", "onnx").output


def test_convert_says_what_is_wrong():
    done = invoke("convert", "nowhere.pth", "b")
    assert done.exit_code == 2
    assert "error: " in done.output


def test_memory_takes_any_field_and_says_what_is_wrong(stand_in, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    smoke = "--config=configs/tiny.py:smoke"
    assert "Missing option '--config'" in invoke("memory").output
    wrong = invoke("memory", smoke, "--config.train.batch_siz=3")
    assert wrong.exit_code == 2
    assert "did you mean train.batch_size?" in wrong.output
    # What the stand-in has none of.
    simple = [f"--config.model.{field}" for field in ("adaptation=none", "mh_fpn=False", "dc_hsp=False")]
    right = invoke("memory", smoke, "--config.train.batch_size=4", *simple)
    assert right.exit_code == 0
    assert "train, batch 4 over 4 devices (data 4" in right.output


def test_cache_by_variable_and_by_custom(monkeypatch, tmp_path):
    assert compilation_cache.use() is None
    monkeypatch.setitem(os.environ, compilation_cache.VARIABLE, str(tmp_path))
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    assert compilation_cache.use() == tmp_path
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert compilation_cache.default_folder() == tmp_path / "x" / "ahs_seg_jax" / "compiled"
