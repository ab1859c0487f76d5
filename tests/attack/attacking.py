"""What all attacks have in common: inputs by number, and what became of each.

Input `number` of a kind depends on the seed and on nothing else.
"""

import abc
import importlib
import pathlib
import time
import zlib

import numpy as np

# Kind of input -> how many the bounds ask for.
WANTED = {
    "images": 20_000,
    "tiffs": 2_000,
    "checkpoints": 5_000,
    "manifests": 2_000,
    "configurations": 4_000,
    "commands": 1_000,
    "options": 2_000,
    "names": 5_000,
    "workdirs": 1_000,
    "requests": 5_000,
    "page": 1_000,
    "server": 1_000,
}
GOOD = ("fine", "clear")
BAD = ("unclear", "silent", "traceback", "hang", "memory")
MOST_BYTES = 2 * 10**9
CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")


class Silent(Exception):
    """Something that should have been noticed was not: wrong numbers, code that ran, a file that was read."""


class Kind(abc.ABC):
    """A kind of input. `folder` is an empty one that it may use."""

    mistakes: tuple[type[BaseException], ...] = (ValueError,)  # what may be raised for a bad input

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    @abc.abstractmethod
    def run(self, rng: np.random.Generator) -> None:
        """Makes an input and tries it. Returns if all is well; raises Silent, or what the program raises."""

    def is_clear(self, said: str) -> bool:
        """Whether the text of a mistake tells what to change."""
        return len(said) > 20

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """Ends what it has started."""


def open_kind(name: str, folder: pathlib.Path) -> Kind:
    """The kind of that name, in `kinds/<name>.py`."""
    return importlib.import_module(f"tests.attack.kinds.{name}").Attack(folder)


def generator(name: str, seed: int, number: int) -> np.random.Generator:
    """The random numbers of one input."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), number])


def outcome(kind: Kind, rng: np.random.Generator) -> tuple[str, str]:
    """(verdict, what was said) of one input."""
    try:
        kind.run(rng)
    except Silent as error:
        return "silent", str(error)
    except kind.mistakes as error:
        said = str(error)
        return ("clear" if kind.is_clear(said) else "unclear"), f"{type(error).__name__}: {said}"
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "fine", ""


def memory(name: str) -> int:
    """A number of bytes that Linux states of this process: VmRSS now, VmHWM at most since the last `forget_peak`."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def judged(kind: Kind, rng: np.random.Generator) -> tuple[str, str, float]:
    """(verdict, what was said, seconds); memory is watched where the system allows it."""
    before, started = 0, time.monotonic()
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")  # the peak is from now on
        before = memory("VmRSS")
    verdict, said = outcome(kind, rng)
    if CLEAR_REFS.exists() and memory("VmHWM") - before > MOST_BYTES:
        verdict, said = "memory", f"{(memory('VmHWM') - before) / 1e9:.1f} GB: {said}"
    return verdict, said, time.monotonic() - started
