"""The command line: one message and exit code 2 for a user's mistake, before anything long starts."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(*arguments: str, code: int) -> str:
    """What the program prints; its exit code must be `code`, and there must be no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ahs_seg_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,  # against a hang; a busy machine may need minutes
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


TINY = "--config=configs/tiny.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["both flags are needed, such as --config=configs/tiny.py"]),
        ([TINY, "--workdir=x", "--config.train.batchsize=8"], ["--config.train.batchsize", "train.batch_size?"]),
        ([TINY, "--workdir=x", "--config.train.steps=0"], ["train.steps is 0; it must be positive"]),
        ([TINY, "--workdir=x", "--config.train.batch_size=many"], ["--config.train.batch_size=many"]),
        ([TINY, "--wrokdir=x"], ["wrokdir"]),
        (["--config=configs/tiny.py:smok", "--workdir=x"], ["variant 'smok'", "'smoke'"]),
        (["--config=configs/nothing.py", "--workdir=x"], ["configs/nothing.py"]),
        (["--config=configs/vitb.py", "--workdir=x"], ["init is empty", "download CLIP"]),
        (["--config=configs/folder.py:smoke", "--workdir=x", "--config.data.root=nowhere"], ["nowhere"]),
        ([TINY, "--workdir={tmp}", "--mode=eval"], ["no checkpoint in"]),
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
    ],
)
def test_mistakes(tmp_path, arguments, words):
    printed = command(*(argument.format(tmp=tmp_path) for argument in arguments), code=2)
    assert printed.startswith("error: ") or "\nerror: " in printed
    assert all(word in printed for word in words), printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "vitb"])
def test_smoke_runs_from_the_command_line_and_can_be_evaluated(tmp_path, name):
    config = f"--config=configs/{name}.py:smoke"
    assert "step 4/4" in command(config, f"--workdir={tmp_path}", code=0)
    assert "mIoU" in command(config, f"--workdir={tmp_path}", "--mode=eval", code=0)
    refused = command(config, f"--workdir={tmp_path}", "--config.train.batch_size=8", code=2)
    assert "train.batch_size: stored 4, now 8" in refused
