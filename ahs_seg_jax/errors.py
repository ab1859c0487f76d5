"""What can go wrong by what a user gives or a machine does, and how a run ends.

Every message names the cause, the value seen and the remedy.
"""

import contextlib
import enum
from collections.abc import Iterator


class CheckpointError(RuntimeError):
    """States the file, what is wrong with it, the value seen and what to do about it.

    Names in files may be anybody's: characters that would steer a terminal are shown by their codes.
    """

    def __init__(self, message: str = ""):
        shown = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))


class WriteError(OSError):
    """A file cannot be written. The message names the file and the cause."""


def reason(error: BaseException) -> str:
    """Why something failed, in one line: what an error says, shortened, or that the disk is full."""
    text = str(error).strip()
    if any(words in text for words in ("No space left on device", "RESOURCE_EXHAUSTED", "Disk quota exceeded")):
        return "the disk is full (No space left on device)"
    first = text.splitlines()[0][:300] if text else "no message"
    return first if isinstance(error, CheckpointError | WriteError) else f"{type(error).__name__}: {first}"


class InputError(ValueError):
    """What was asked for cannot be done; the message states cause, value seen and remedy."""


class ConfigError(InputError):
    """A configuration that cannot be run. `problems` lists every reason, one sentence each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__(
            "\n".join([f"the configuration has {len(problems)} problem(s):", *(f"  - {p}" for p in problems)])
        )


@contextlib.contextmanager
def checking_input() -> Iterator[None]:
    """Inside this context a ValueError is about the input, not a fault of the program: it is raised as InputError."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


class Ending(enum.IntEnum):
    """How a run ended; the value is the program's exit code.

    The same command continues a run that was told to stop: from the step where it stopped or, if that could not be
    saved (which is said), from the newest checkpoint. 75 is sysexits.h's EX_TEMPFAIL, "try again":
    a shell reports 143 for a program that SIGTERM killed, which would not tell a saved run from a dead one.
    """

    FINISHED = 0
    PREEMPTED = 75  # SIGTERM or a preemption notice
    INTERRUPTED = 130  # Ctrl-C


class LostProcess(RuntimeError):
    """A process of the run is missing; the message names it. What was done since the last save is lost."""


class DataProblem(InputError):
    """Data that cannot be scored: there are none, their doctor refuses them, or labels lie outside the vocabulary."""


class NotAnIndexMask(ValueError):
    """A mask whose pixels are colours."""


class CorruptExample(RuntimeError):
    """An example that cannot be read. The message names the file and the cause."""
