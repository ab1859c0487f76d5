"""The command line: one message and exit code 2 for a user's mistake, before anything long starts."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from ahs_seg_jax import main
from tests.support.xla_flags import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(*arguments: str, code: int) -> str:
    """What the program prints; its exit code must be `code`, and there must be no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ahs_seg_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": xla_flags(1)},
        capture_output=True,
        text=True,
        timeout=900,  # against a hang; a busy machine may need minutes
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


TINY = "--config=configs/tiny.py:smoke"


def in_process(*arguments: str) -> int:
    """The exit code of the program, without a process of its own; it prints as that would."""
    argv = ["main", *arguments]
    values = main.define_flags(flags.FlagValues())
    with pytest.raises(SystemExit) as ended:
        main.main(main.parse_or_fail(argv, values), values)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["both flags are needed, such as --config=configs/tiny.py"]),
        ([TINY, "--workdir=x", "--config.train.batchsize=8"], ["--config.train.batchsize", "train.batch_size?"]),
        ([TINY, "--workdir=x", "--config.train.steps=0"], ["train.steps is 0; it must be positive"]),
        ([TINY, "--workdir=x", "--config.train.batch_size=many"], ["--config.train.batch_size=many"]),
        ([TINY, "--wrokdir=x"], ["'wrokdir'", "Did you mean: workdir"]),
        (["--config=configs/tiny.py:smok", "--workdir=x"], ["variant 'smok'", "'smoke'"]),
        (["--config=configs/nothing.py", "--workdir=x"], ["configs/nothing.py"]),
        (["--config=configs/vitb.py", "--workdir=x"], ["init is empty", "set init to clip-vitb16"]),
        (["--config=configs/folder.py:smoke", "--workdir=x", "--config.data.root=nowhere"], ["nowhere"]),
        ([TINY, "--workdir={tmp}", "--mode=eval"], ["no checkpoint in"]),
        ([TINY, "--workdir=x", "--config.train.steps", "0"], ["train.steps is 0; it must be positive"]),
        ([TINY, "--workdir=x", "--mode=test"], ["--mode=test"]),
        ([TINY, "--workdir=x", "--coordinator=localhost:1"], ["--num_processes, --process_id must be given too"]),
    ],
    ids=[
        "nothing",
        "misspelt",
        "contradiction",
        "type",
        "flag",
        "variant",
        "no_file",
        "no_weights",
        "no_data",
        "no_checkpoint",
        "apart",
        "mode",
        "no_number",
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(ROOT)
    assert in_process(*(argument.format(tmp=tmp_path) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") or "\nerror: " in printed
    assert all(word in printed for word in words), printed


def test_a_mistake_in_a_process_of_its_own():
    printed = command(TINY, "--workdir=x", "--config.train.steps=0", code=2)
    assert printed.startswith("error: ") or "\nerror: " in printed
    assert "train.steps is 0; it must be positive" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vitb", "siglip2_vitb", "pe_vitb", "eva02_vitb"])
def test_smoke_runs_from_the_command_line(tmp_path, name):
    assert "step 4/4" in command(f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path}", code=0)


@pytest.mark.slow
def test_what_a_smoke_run_leaves_can_be_evaluated_and_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert "step 4/4" in command(TINY, f"--workdir={tmp_path}", code=0)
    assert "mIoU" in command(TINY, f"--workdir={tmp_path}", "--mode=eval", code=0)
    assert in_process(TINY, f"--workdir={tmp_path}", "--config.train.batch_size=8") == 2
    assert "train.batch_size: stored 4, now 8" in capsys.readouterr().err
