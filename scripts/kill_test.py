"""Kills a training run at random moments, again and again, and checks that nothing is lost.

    python scripts/kill_test.py --kills 30

A small run (stand-in model, drawn scenes) is done once without a disturbance. Then the same run is killed with SIGKILL
after random times, also while it saves, and started again, until it has been killed as often as asked; the last start
may finish. Every other start writes its checkpoints slowly. This shows that every start continues from the newest
complete checkpoint, that no more steps are lost than `train.checkpoint_every` whatever was being written, and that the
final state (parameters, optimiser, average, counters) equals the undisturbed run's bit for bit. Run it from the
repository.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[1]
INTERVAL = 4  # train.checkpoint_every: steps that a kill may cost
SLOW_SAVE = 1.5  # duration of a slow save, in steps


class Failed(Exception):
    """Something was lost."""


def command(workdir: pathlib.Path, steps: int, step_seconds: float, save_seconds: float = 0.0) -> list[str]:
    """The small run."""
    run = {"steps": steps, "checkpoint_every": INTERVAL, "ema_decay": 0.9}
    return [
        *(sys.executable, "-u", "-m", "tests.support.train_worker", f"--workdir={workdir}"),
        *(f"--run={json.dumps(run)}", f"--step_seconds={step_seconds}"),
        f"--save_seconds={save_seconds}",
    ]


def state(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by name."""
    handler = ocp.PyTreeCheckpointHandler()
    path = workdir.absolute() / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(handler) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        as_arrays = ocp.checkpoint_utils.construct_restore_args(tree)
        for leaf in _leaves(as_arrays):
            leaf.restore_type = np.ndarray
            leaf.sharding = None
        restored = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_arrays))
    return {"/".join(map(str, name)): np.asarray(leaf) for name, leaf in _named(restored)}


def _named(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        if tree is not None:
            yield prefix, tree
        return
    for key, child in items:
        yield from _named(child, (*prefix, key))


def _leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in _named(tree)]


def newest(workdir: pathlib.Path) -> int:
    """The newest complete checkpoint's step; 0 if there is none."""
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    return max(steps, default=0)


def last_number(pattern: str, printed: str) -> int | None:
    """The number in the last match of a pattern."""
    found = re.findall(pattern, printed)
    return int(found[-1]) if found else None


def killed_run(started: list[str], log: pathlib.Path, seconds: float) -> tuple[bool, str]:
    """Starts a run and kills it `seconds` after it has begun to train: (whether it had finished, what it printed)."""
    with log.open("w") as output:
        process = subprocess.Popen(started, cwd=ROOT, stdout=output, stderr=output)
        while process.poll() is None and "first step" not in log.read_text():
            time.sleep(0.02)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False, log.read_text()
    if code:
        raise Failed(f"a start ended with exit code {code}:\n{log.read_text()}")
    return True, log.read_text()


def check_start(printed: str, before: int, reached: int) -> int:
    """How many steps a start does again, when `before` was the newest complete checkpoint and `reached` the last step.

    Raises Failed if it continued elsewhere, or does more steps again than a kill may cost.
    """
    continued = last_number(r"continuing after step (\d+)", printed) or 0
    if continued != before:
        raise Failed(f"a start continued after step {continued}; the newest complete checkpoint is of step {before}")
    if reached - continued > INTERVAL:
        raise Failed(f"step {reached} had been done, but the run went back to {continued}, by more than {INTERVAL}")
    return reached - continued


def run(kills: int, steps: int, step_seconds: float, seed: int, folder: pathlib.Path) -> None:
    """The whole test; prints one line for each kill. Raises Failed."""
    chance = random.Random(seed)
    whole, parts = folder / "whole", folder / "parts"
    subprocess.run(command(whole, steps, 0.0), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    done, reached, most, finished = 0, 0, 0, False
    while done < kills and not finished:
        before = newest(parts)
        unfinished = len(list(parts.glob("checkpoints/*tmp*")))
        started = command(parts, steps, step_seconds, SLOW_SAVE * step_seconds * (done % 2))
        finished, printed = killed_run(started, folder / "log", chance.uniform(0, 4 * INTERVAL * step_seconds))
        lost = check_start(printed, before, reached)
        reached, most = last_number(r"(?m)^did step (\d+)", printed) or before, max(most, lost)
        done += not finished
        print(
            f"kill {done}: {lost} steps done again, then at step {reached}, newest complete {newest(parts)}, "
            f"unfinished saves found: {unfinished}",
            flush=True,
        )
    if done < kills:
        raise Failed(f"the run ended after {done} kills; give it more --steps")
    before = newest(parts)
    _, printed = killed_run(command(parts, steps, 0.0), folder / "log", 3600)
    most = max(most, check_start(printed, before, reached))
    expected, found = state(whole, steps), state(parts, steps)
    different = [name for name in expected | found if not _same(expected.get(name), found.get(name))]
    if different:
        raise Failed(f"the final state differs from the undisturbed run's: {', '.join(different)}")
    print(
        f"{done} kills, none of which cost more than {most} steps (train.checkpoint_every = {INTERVAL}); all "
        f"{len(expected)} arrays of step {steps} equal the undisturbed run's bit for bit"
    )


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=0, help="of the run; default: enough for the kills")
    parser.add_argument("--step-seconds", type=float, default=0.15, help="least duration of a step")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        steps = options.steps or 12 * (options.kills + 1)
        try:
            run(options.kills, steps, options.step_seconds, options.seed, pathlib.Path(folder))
        except Failed as error:
            sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
