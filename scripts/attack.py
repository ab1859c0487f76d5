"""Attacks the program with many thousands of inputs, and counts what became of them.

    python scripts/attack.py --minutes 60 --folder attack

Inputs are images, GeoTIFFs, checkpoints, manifests, configurations, command lines, class names, damaged training
directories, and requests to the page. They are made from a seed: the same seed makes the same inputs, and `--replay
images:2219` tries one of them again. A run that was stopped goes on in the same folder, where `state.json` holds the
counts and `found.jsonl` a line for every input that went wrong. Inputs are tried in processes that are started anew
when one hangs or dies. Run it from the repository.

What may become of an input: fine (it was read), clear (an error that says what is wrong), unclear (an error that does
not), silent (wrong numbers, code that ran or a file that was read, and no word), traceback (an error that nobody
foresaw, or a dead process), hang (over 30 seconds), memory (over 2 GB).
"""

import argparse
import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
VERDICTS = ("fine", "clear", "unclear", "silent", "traceback", "hang", "memory")
HANG, START = 30.0, 300.0  # seconds for one input; for a process to be ready
PATIENCE = 4  # times so long on the clock, if it computes less than that
SLICE = 60.0  # seconds that a process tries inputs of one kind


def wanted() -> dict[str, int]:
    """How many inputs of each kind the bounds ask for."""
    program = "import json; from tests.attack.attacking import WANTED; print(json.dumps(WANTED))"
    return json.loads(subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout)


class State:
    """The counts of a run, and where each kind goes on."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self._file, self._found = folder / "state.json", folder / "found.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.kinds: dict[str, dict[str, Any]] = {}
        self.seed = seed
        if self._file.is_file():
            before = json.loads(self._file.read_text())
            if before["seed"] != seed:
                raise SystemExit(
                    f"{folder} holds a run of seed {before['seed']}; choose another --folder, or that seed"
                )
            self.kinds = before["kinds"]

    def of(self, kind: str) -> dict[str, Any]:
        """The counts of a kind, and its `next` input."""
        return self.kinds.setdefault(kind, {"next": 0, "seconds": 0.0} | dict.fromkeys(VERDICTS, 0))

    def count(self, kind: str, number: int, verdict: str, said: str) -> None:
        """Notes what became of an input."""
        counts = self.of(kind)
        counts[verdict] += 1
        counts["next"] = number + 1
        if verdict not in VERDICTS[:2]:
            with self._found.open("a") as file:
                file.write(json.dumps({"kind": kind, "number": number, "verdict": verdict, "said": said}) + "\n")

    def save(self) -> None:
        """Writes the counts, all or nothing."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({"seed": self.seed, "kinds": self.kinds}, indent=1) + "\n")
        partial.replace(self._file)

    def table(self) -> str:
        """The counts as Markdown."""
        lines = [f"| seed {self.seed} | inputs | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 2) + "|"]
        for kind, counts in self.kinds.items():
            numbers = [counts[verdict] for verdict in VERDICTS]
            lines.append(f"| {kind} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
        return "\n".join(lines)


def busy(pid: int) -> float:
    """Seconds that a process has computed, where the system says so; else without end."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answers(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The lines of a process as they come; `hang` where none came for too long, `died` where it ended too early."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    patience = START
    while True:
        before, line = busy(process.pid), None
        for _ in range(PATIENCE):  # a machine with other work gives it little time: its own counts
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=patience)
                break
            if busy(process.pid) - before > HANG:
                break
        if line is None:
            yield {"hang": True}
            return
        answer = json.loads(line) if line else {"died": True}
        yield answer
        if "done" in answer or "died" in answer:
            return
        patience = HANG


def attack(state: State, kind: str, count: int, seconds: float) -> bool:
    """Tries at most `count` inputs of a kind, for about so many seconds. False if its process does not start."""
    number = state.of(kind)["next"]
    command = [sys.executable, "-m", "tests.attack", kind, f"--seed={state.seed}", f"--start={number}"]
    command += [f"--count={count}", f"--seconds={seconds}"]
    started, ready = time.monotonic(), False
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            for answer in answers(process):
                if not ready and "ready" not in answer:
                    print(f"{kind} is left out, for it does not start (a library is missing?): {' '.join(command)}")
                    return False
                ready = True
                if "hang" in answer:
                    state.count(kind, number, "hang", f"no answer for {HANG:g} s")
                elif "died" in answer:
                    state.count(kind, number, "traceback", f"the process ended with {process.wait()}")
                elif "verdict" in answer:
                    state.count(kind, answer["number"], answer["verdict"], answer["said"])
                    number = answer["number"] + 1
        finally:
            process.kill()
            process.wait()
            state.of(kind)["seconds"] = round(state.of(kind)["seconds"] + time.monotonic() - started, 1)
            state.save()
    return True


def main() -> None:
    """See the module; exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("attack"))
    parser.add_argument("--kinds", nargs="*", help="all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the number of inputs that the bounds ask for")
    parser.add_argument("--replay", help="KIND:NUMBER, one input again")
    given = parser.parse_args()
    if given.replay:
        kind, _, number = given.replay.partition(":")
        command = [sys.executable, "-m", "tests.attack", kind, f"--seed={given.seed}", f"--start={number}"]
        raise SystemExit(subprocess.run([*command, "--count=1"], cwd=ROOT, check=False).returncode)
    numbers = {kind: round(count * given.share) for kind, count in wanted().items()}
    state, end = State(given.folder, given.seed), time.monotonic() + 60 * given.minutes
    print(f"seed {given.seed}; what goes wrong is written to {given.folder / 'found.jsonl'}")
    open_kinds = [kind for kind in given.kinds or numbers if state.of(kind)["next"] < numbers[kind]]
    while open_kinds and time.monotonic() < end:
        for kind in list(open_kinds):
            left = min(SLICE, end - time.monotonic())
            if left > 0:
                if not attack(state, kind, numbers[kind] - state.of(kind)["next"], left):
                    open_kinds.remove(kind)
                    continue
                print(f"{kind}: {json.dumps(state.of(kind))}", flush=True)
            if state.of(kind)["next"] >= numbers[kind]:
                open_kinds.remove(kind)
    print(state.table())
    print("all inputs were tried" if not open_kinds else f"not all were tried: {', '.join(open_kinds)}; start it again")
    raise SystemExit(any(counts[verdict] for counts in state.kinds.values() for verdict in VERDICTS[2:]))


if __name__ == "__main__":
    main()
