"""The process that tries the inputs of one kind: `python -m tests.attack images --seed 0 --start 0 --seconds 60`.

It prints a line of JSON for each; `scripts/attack.py` starts such processes, watches and counts.
"""

import argparse
import json
import pathlib
import resource
import sys
import tempfile
import time

from tests.attack import attacking

ADDRESS_SPACE = 24 * 10**9  # bytes: beyond this the process fails instead of the machine


def main() -> None:
    """Tries inputs from `--start` on for `--seconds`; see the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, most))
    out = sys.stdout
    sys.stdout = sys.stderr  # what the program prints is not mixed with the lines of this one

    def tell(**content: object) -> None:
        print(json.dumps(content), file=out, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        kind = attacking.open_kind(given.kind, pathlib.Path(folder))
        try:
            tell(ready=True)
            end = time.monotonic() + given.seconds
            for number in range(given.start, given.start + given.count):
                if time.monotonic() > end:
                    break
                verdict, said, seconds = attacking.judged(kind, attacking.generator(given.kind, given.seed, number))
                tell(number=number, verdict=verdict, said=said[:400], seconds=round(seconds, 3))
            tell(done=True)
        finally:
            kind.close()


if __name__ == "__main__":
    main()
