"""The command line: one message and exit code 2 for a user's mistake, before anything long starts."""

import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from ahs_seg_jax import main
from tests.support import ROOT

# From ml_collections, which loads the configuration file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TINY = "--config=configs/tiny.py:smoke"
# (arguments, words of the message). The first two are also tried in a process of their own: one mistake that is found
# while the flags are read, and one that is found later.
MISTAKES = {
    "misspelt": ([TINY, "--workdir={tmp}", "--config.train.batchsize=8"], ["train.batchsize", "train.batch_size?"]),
    "no_checkpoint": ([TINY, "--workdir={tmp}", "--mode=eval"], ["no checkpoint in"]),
    "nothing": ([], ["both flags are needed, such as --config=configs/tiny.py"]),
    "contradiction": ([TINY, "--workdir={tmp}", "--config.train.steps=0"], ["train.steps is 0; it must be positive"]),
    "type": ([TINY, "--workdir={tmp}", "--config.train.batch_size=many"], ["--config.train.batch_size=many"]),
    "flag": ([TINY, "--wrokdir={tmp}"], ["wrokdir"]),
    "variant": (["--config=configs/tiny.py:smok", "--workdir={tmp}"], ["variant 'smok'", "'smoke'"]),
    "no_file": (["--config=configs/nothing.py", "--workdir={tmp}"], ["configs/nothing.py"]),
    "no_weights": (["--config=configs/vitb.py", "--workdir={tmp}"], ["init is empty", "download CLIP"]),
    "no_data": (["--config=configs/folder.py:smoke", "--workdir={tmp}", "--config.data.root=nowhere"], ["nowhere"]),
}


def process(*arguments: str, code: int) -> str:
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


@pytest.fixture
def refused(monkeypatch, capsys):
    """What the program prints in this process, where it must end with exit code 2. The flags are put back."""
    monkeypatch.chdir(ROOT)
    was_parsed = flags.FLAGS.is_parsed()

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["main", *arguments])  # ml_collections looks there for single fields
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            main.main(main.parse(sys.argv))
        assert ended.value.code == 2
        return capsys.readouterr().err

    yield call
    if not was_parsed:
        flags.FLAGS.unparse_flags()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(refused, tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    printed = refused(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert printed.startswith("error: ") or "\nerror: " in printed
    assert all(word in printed for word in words), printed


@pytest.mark.parametrize("mistake", list(MISTAKES)[:2])
def test_program_ends_with_exit_code_2_and_no_traceback(tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    printed = process(*(argument.format(tmp=tmp_path) for argument in arguments), code=2)
    assert printed.startswith("error: ") or "\nerror: " in printed
    assert all(word in printed for word in words), printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "vitb"])
def test_smoke_runs_from_the_command_line_and_can_be_evaluated(refused, tmp_path, name):
    config = f"--config=configs/{name}.py:smoke"
    assert "step 4/4" in process(config, f"--workdir={tmp_path}", code=0)
    assert "mIoU" in process(config, f"--workdir={tmp_path}", "--mode=eval", code=0)
    other = refused(config, f"--workdir={tmp_path}", "--config.train.batch_size=8")
    assert "train.batch_size: stored 4, now 8" in other
