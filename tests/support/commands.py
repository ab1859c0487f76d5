"""The commands `ahs-seg data ...` in this process."""

import sys

from typer.testing import CliRunner

from ahs_seg_jax.cli import app


def data_command(arguments: list[str]) -> int:
    """Runs `ahs-seg data` with these arguments, passes on what it prints, and returns its exit code."""
    done = CliRunner().invoke(app.app, ["data", *arguments])
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    assert "Traceback" not in done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code
