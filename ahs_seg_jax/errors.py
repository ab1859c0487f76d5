"""What can go wrong by what a user gives or a machine does, and how a run ends.

Every message names the cause, the value seen and the remedy, and the page of the documentation that says more, where
there is one.
"""

import contextlib
import enum
from collections.abc import Iterator

# Words of messages, and the place in docs/ that says more about such a message. The first that occur in it count.
PAGES = {
    "pip install 'ahs_seg_jax[": "start.md#extras",
    "does not say whether it computes QuickGELU": "troubleshooting.md#which-activation",
    "belongs to another run": "troubleshooting.md#another-run",
    "is being trained in by process": "troubleshooting.md#one-directory-two-runs",
    "more than memory_gb": "troubleshooting.md#out-of-memory",
    "there is not enough memory": "troubleshooting.md#out-of-memory",
    "start all processes again": "troubleshooting.md#a-process-did-not-come",
    "The checkpoints from before that step are kept": "troubleshooting.md#the-loss-is-not-finite",
    "the limit is": "troubleshooting.md#too-large",
    "the vocabulary has": "troubleshooting.md#names-that-cannot-be-used",
    "the text context holds": "troubleshooting.md#names-that-cannot-be-used",
    "does not say which are red, green and blue": "segmenting.md#rasters",
    "it would lose its contrast": "segmenting.md#rasters",
    "say which values become black and white": "segmenting.md#rasters",
    "--shard is": "many_images.md#many-images",
    "which cannot be reached": "many_images.md#many-images",
    "holds results with another": "troubleshooting.md#other-settings-one-folder",
    "training-free method": "training_free.md",
    "the configuration has": "troubleshooting.md#the-configuration-has-problems",
    "is no index mask": "train.md#on-your-own-images",
    "data.root is empty": "train.md#on-your-own-images",
    "is not prepared": "evaluate.md#a-benchmark-from-its-download-to-its-score",
    "the data are not what they should be": "evaluate.md#a-benchmark-from-its-download-to-its-score",
    "the model zoo has no": "models.md#the-zoo",
    "there is no checkpoint at": "models.md",
    "is refused": "troubleshooting.md#refused-files",
    "damaged": "troubleshooting.md#damaged-files",
}  # fmt: skip


def page(message: str) -> str | None:
    """Where the documentation says more about a message, such as `docs/train.md#on-your-own-images`."""
    return next((f"docs/{place}" for words, place in PAGES.items() if words in message), None)


def told(error: BaseException) -> str:
    """An error as a command prints it: its message, and where the documentation says more."""
    more = page(str(error))
    return f"error: {error}" + (f"\n(more: {more})" if more else "")


def _note_page(error: BaseException) -> None:
    if more := page(str(error)):
        error.add_note(f"more: {more}")


class CheckpointError(RuntimeError):
    """States the file, what is wrong with it, the value seen and what to do about it.

    Names in files may be anybody's: characters that would steer a terminal are shown by their codes. A traceback names
    the page of the documentation too.
    """

    def __init__(self, message: str = ""):
        shown = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))
        _note_page(self)


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
    """What was asked for cannot be done; the message states cause, value seen and remedy.

    A traceback names the page of the documentation too.
    """

    def __init__(self, message: str = ""):
        super().__init__(message)
        _note_page(self)


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
