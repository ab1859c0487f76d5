"""Command lines that no test runs are at least understood: the program that each of them calls parses it.

Shell scripts are run with stand-ins for Python and the cloud's programs, which write down how they were called; command
lines in Python and Markdown files are read. The parser of the called program must accept every one.
"""

import collections
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from absl import flags

from ahs_seg_jax import main
from benchmarks import registry, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Started by other programs, which give them two or three words and no options.
INTERNAL = {"benchmarks.worker", "benchmarks.published.ours", "benchmarks.published.theirs"}
INTERNAL |= {"benchmarks.published.curve_ours", "benchmarks.published.curve_theirs", "benchmarks.published.onnx_run"}
INTERNAL |= {"benchmarks.published.naclip", "benchmarks.published.free_theirs"}
PROGRAM = r"-m ((?:benchmarks|scripts|ahs_seg_jax)(?:\.\w+)*)|(scripts/\w+\.py)"

Call = tuple[str, list[str]]  # a program's module and its arguments


def module_of(named: str) -> str:
    """`scripts/kill_test.py` -> `scripts.kill_test`; modules stay as they are."""
    return named.removesuffix(".py").replace("/", ".")


# ------------------------------------------------------------------------------------------ the programs' parsers


def main_parser(arguments: Sequence[str]) -> None:
    """What `ahs_seg_jax.main` does with its command line, without touching the flags of this process."""
    values = main.define_flags(flags.FlagValues())
    overrides = main.parse(["main", *arguments], values)[1:]
    if arguments:  # without any, a text only names the program
        main.experiment_of(values, overrides)


def run_parser(arguments: Sequence[str]) -> None:
    """What `benchmarks.run` does with its command line: parses it and looks for the benchmarks that it names."""
    registry.chosen(run.parse(arguments).only)


def parser_of(program: str) -> Callable[[Sequence[str]], Any]:
    """The function that parses a program's arguments. Fails if none is known, so that no call goes unchecked."""
    special = {"ahs_seg_jax.main": main_parser, "benchmarks.run": run_parser}
    found = special.get(program) or getattr(importlib.import_module(program), "parse", None)
    return found or pytest.fail(f"{program} has no function `parse` that tests can ask")


def check_accepted(program: str, arguments: Sequence[str]) -> None:
    """Fails unless the program's own parser takes the arguments."""
    try:
        parser_of(program)(list(arguments))
    except (SystemExit, ValueError, AssertionError) as error:
        if not isinstance(error, SystemExit) or error.code not in (0, None):
            pytest.fail(f"{program} refuses {shlex.join(arguments)}: {error}")


def check_all_accepted(calls: Sequence[Call]) -> None:
    """`check_accepted` of each call."""
    for program, arguments in calls:
        check_accepted(program, arguments)


# ------------------------------------------------------------------------------------------ shell scripts

SLICE = {"NAME": "ahs", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "CONFIG": "configs/vitb.py"}
SLICE |= {"WORKDIR": "gs://bucket/runs/vitb", "DATA": "gs://bucket/data"}
SETTINGS = {"AHS_SEG_SIZE": "tiny", "AHS_SEG_DTYPE": "float32", "AHS_SEG_BATCH": "2", "AHS_SEG_DEVICE": "cpu"}
SETTINGS |= {"AHS_SEG_QUICK": "1", "AHS_SEG_LARGE": "vitb16", "AHS_SEG_MINUTES": "9", "AHS_SEG_BESIDE": "--classes 3"}
WEIGHTS = "--config.init=openai/clip-vit-base-patch16"
RUNS: dict[str, list[tuple[list[str], dict[str, str]]]] = {  # how each script is run: its arguments and its environment
    ".ci/run": [([], {})],
    "benchmarks/gpu.sh": [(["FOLDER"], {}), (["FOLDER"], SETTINGS | {"AHS_SEG_RESULTS": "here"})],
    "scripts/slurm.sh": [(["--config=configs/vitb.py", "--workdir=/runs/vitb", WEIGHTS], {"SLURM_JOB_ID": "7"})],
    "scripts/tpu_pod.sh": [([action, WEIGHTS], SLICE) for action in ("run", "resume")],
}
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" > "$(mktemp "$RECORDS/XXXXXX")"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
GCLOUD = """#!/usr/bin/env bash
for argument; do
  if [[ $argument == --command=* ]]; then cd "$HOME" && bash -c "${argument#--command=}"; fi
done
"""
STANDINS = dict.fromkeys(["python", "python3", "python3.11", "pip", "ruff", "mypy", "chromium", "git"], RECORDER)
STANDINS |= dict.fromkeys(["lint-imports", "twine", "check-wheel-contents", "uv", "zensical"], RECORDER)
STANDINS |= dict.fromkeys(["python3.12", "python3.13", "python3.14"], "#!/bin/sh\nexit 1\n")  # only 3.11 is there
STANDINS |= {"srun": SRUN, "gcloud": GCLOUD, "tar": "#!/bin/sh\n", "scontrol": "#!/bin/sh\n"}


class Machine:
    """A folder as home, in which a script runs with stand-ins for programs."""

    def __init__(self, home: pathlib.Path):
        self.home, self.records, programs = home, home / "records", home / "programs"
        for folder in (self.records, programs, home / "ahs_seg_jax" / ".venv" / "bin"):
            folder.mkdir(parents=True)
        for name, text in STANDINS.items():
            self._put(programs / name, text)
        for name in ("python", "pip"):  # of the environment that the scripts expect
            self._put(home / "ahs_seg_jax" / ".venv" / "bin" / name, RECORDER)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(home)}
        self.environment |= {"RECORDS": str(self.records)}

    def _put(self, path: pathlib.Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def calls(self, script: pathlib.Path, arguments: Sequence[str], settings: dict[str, str]) -> list[Call]:
        """The calls of our programs by a script."""
        settings = {name: str(self.home / value) if value == "here" else value for name, value in settings.items()}
        command = ["bash", str(script), *arguments]
        environment = self.environment | settings
        cwd = self.home / "ahs_seg_jax"
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 20  # a program in the background may come later
        while not (found := self._recorded()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _recorded(self) -> list[Call]:
        found = []
        for path in self.records.iterdir():
            words = [word for word in path.read_bytes().decode().split("\0")[:-1] if word != "-u"]
            if words[:1] == ["-m"] and (named := re.fullmatch(PROGRAM, f"-m {words[1]}")):
                found.append((module_of(named[1]), words[2:]))
            elif words and re.fullmatch(PROGRAM, words[0]):
                found.append((module_of(words[0]), words[1:]))
        return found


def test_every_shell_script_is_run_here():
    scripts = [*ROOT.glob("*/*.sh"), *ROOT.glob(".ci/*")]
    packs = "benchmarks/gpu_pack.sh"  # calls no program of ours; tests/benchmarks/test_gpu_scripts.py runs it
    assert {str(path.relative_to(ROOT)) for path in scripts} == {*RUNS, packs}


@pytest.mark.parametrize("script", RUNS)
def test_calls_of_shell_scripts(script, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    seen: collections.Counter[str] = collections.Counter()
    for number, (arguments, settings) in enumerate(RUNS[script]):
        calls = Machine(tmp_path / str(number)).calls(ROOT / script, arguments, settings)
        check_all_accepted(calls)
        seen |= collections.Counter(program for program, _ in calls)
    code = [line for line in (ROOT / script).read_text().splitlines() if not line.lstrip().startswith("#")]
    written = collections.Counter(module_of(a or b) for a, b in re.findall(PROGRAM, "\n".join(code)))
    assert written
    assert not written - seen, "a call that no run of the script reached"


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("sliding_window_847", "sliding_847", "benchmarks.run refuses .*: no benchmark matches 'sliding_847'"),
        ("--remat cheap", "--remat 1", "benchmarks.run refuses .*--remat 1"),
        ("--rounds 2", "--round s", "benchmarks.published.side_by_side refuses .*--round s"),
        ("--window-attention cudnn", "--window-attention fast", "benchmarks.run refuses .*--window-attention fast"),
        ("--platform ", "--platforms ", "benchmarks.goldens refuses .*--platforms"),
        ('--page "$page"', "--pages", "benchmarks.report refuses .*--pages"),
    ],
)
def test_a_wrong_argument_in_a_shell_script_is_found(right, wrong, words, tmp_path):
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    assert right in text
    script = tmp_path / "benchmarks" / "gpu.sh"
    script.parent.mkdir()
    script.write_text(text.replace(right, wrong))
    calls = Machine(tmp_path / "home").calls(script, ["FOLDER"], {})
    assert len(calls) == 11
    with pytest.raises(pytest.fail.Exception, match=words):
        check_all_accepted(calls)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.train.step=3", "did you mean train.steps"),
        ("--distribute=maybe", "Unknown command line flag 'distribute'"),
        ("--config.train.batch_size=0", "train.batch_size is 0; it must be positive"),
        ("--mode=evaluate", "value should be one of <train|eval>"),
        ("evaluate", "'evaluate' sets no field"),
    ],
)
def test_a_wrong_flag_of_the_program_is_found(argument, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(pytest.fail.Exception, match=rf"(?s)ahs_seg_jax.main refuses .*: .*{re.escape(words)}"):
        check_accepted("ahs_seg_jax.main", ["--config=configs/vitb.py", "--workdir=x", WEIGHTS, argument])


# ------------------------------------------------------------------------------------------ Python and Markdown files

LINE = re.compile(rf"(?:.*&& |\w+=\S+ )*(?:\S*/)?python3? (?:-u )?(?:{PROGRAM})(.*)")


def calls_in(text: str) -> list[Call]:
    """The calls in a file: lines that begin with one, and code within a sentence. After two spaces comes a remark."""
    text = re.sub(r" *\\\n\s*", " ", re.sub(r"```.*", "", text))
    lines = [line.strip() for line in text.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    found = []
    for match in filter(None, map(LINE.fullmatch, lines)):
        arguments = re.split(r"\s{2,}|\s#", match[3])[0].replace("[", "").replace("]", "")
        found.append((module_of(match[1] or match[2]), shlex.split(arguments)))
    return found


def test_calls_are_found_in_text():
    text = "Do:\n\n    python -m benchmarks.run --only 'part_*'   # all parts\n"
    text += "    x=1 && .venv/bin/python scripts/a.py B [C ...]\nor `python\nscripts/b.py --check` or\n"
    text += "```\npython -m ahs_seg_jax.main \\\n  --mode=eval\n```\n"
    assert calls_in(text) == [
        ("benchmarks.run", ["--only", "part_*"]),
        ("scripts.a", ["B", "C", "..."]),
        ("ahs_seg_jax.main", ["--mode=eval"]),
        ("scripts.b", ["--check"]),
    ]


FILES = [
    *(path for folder in ("benchmarks", "scripts", "configs") for path in sorted((ROOT / folder).rglob("*.py"))),
    *sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]),
]


def checked_calls(path: pathlib.Path) -> list[Call]:
    """The calls in a file; not those of the package's smaller programs, whose parsers cannot be had by themselves."""
    found = [call for call in calls_in(path.read_text()) if call[0] not in INTERNAL]
    return [call for call in found if call[0] == "ahs_seg_jax.main" or not call[0].startswith("ahs_seg_jax")]


@pytest.mark.parametrize("path", list(filter(checked_calls, FILES)), ids=lambda path: path.name)
def test_calls_in_files(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_all_accepted(checked_calls(path))


def test_every_program_shows_how_it_is_called():
    programs = {path for path in FILES if path.suffix == ".py" and '__name__ == "__main__"' in path.read_text()}
    for path in programs:
        named = module_of(str(path.relative_to(ROOT)))
        assert named in {program for program, _ in calls_in(path.read_text())}, f"{path} shows no call of itself"
