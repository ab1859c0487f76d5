"""The component ablation: trains each row with each seed and tabulates mean and spread. A stopped study is continued.

    python scripts/run_ablations.py --config=configs/tiny.py --seeds 0 1 2 --workdir=runs/ablations [--steps 400]

Any configuration will do; further fields are set as for the program itself (--config.train.batch_size=8). A run that is
finished is not repeated. Writes `ablation.md`, `ablation.json` and `ablation.png` into the workdir after every run.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # Python puts only the folder of a script there

from ahs_seg_jax import config, errors
from ahs_seg_jax.config import ablation, identity
from scripts import ablation_study
from scripts.ablation_study import Outcome, Study


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: a row with a seed."""

    row: str
    seed: int
    folder: pathlib.Path
    arguments: list[str]  # of the program
    fingerprint: str  # of what the run computes

    @property
    def done(self) -> pathlib.Path:
        """The file that says that the run is finished, and which one it was."""
        return self.folder / "finished.json"

    def outcome(self) -> Outcome | None:
        """The final results; None if the run is not finished, or if the file is of another run."""
        if not self.done.is_file():
            return None
        stored = json.loads(self.done.read_text())
        return Outcome(self.row, self.seed, stored["result"]) if stored["fingerprint"] == self.fingerprint else None


def plan(
    path: str, overrides: Sequence[str], rows: Sequence[str], seeds: Sequence[int], workdir: pathlib.Path
) -> list[Run]:
    """All runs, seed by seed, so that a study that is stopped early has whole sets of rows."""
    base, runs = config.load(path, overrides), []
    for seed in seeds:
        for row in rows:
            experiment = dataclasses.replace(ablation.ablated(base, row), seed=seed, mode="train")
            if problems := experiment.problems():
                raise errors.ConfigError([f"row {row}: {problem}" for problem in problems])
            folder = workdir / f"{row}_seed{seed}"
            fields = {"name": experiment.name, "seed": seed, "mode": "train", **ablation.changes(base, row)}
            set_fields = [f"--config.{field}={value}" for field, value in fields.items()]
            arguments = [f"--config={path}", *overrides, *set_fields, f"--workdir={folder}"]
            runs.append(Run(row, seed, folder, arguments, identity.fingerprint(experiment)))
    return runs


def execute(run: Run) -> int:
    """Trains in a process of its own; returns its exit code. Ctrl-C reaches it too, and it saves before it ends."""
    process = subprocess.Popen([sys.executable, "-m", "ahs_seg_jax.main", *run.arguments])
    handlers: dict[int, Any] = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: process.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0:
        results = [json.loads(path.read_text()) for path in (run.folder / "results").glob("*.json")]
        outcome = ablation_study.outcome_of(run.row, run.seed, results)
        run.done.write_text(json.dumps({"fingerprint": run.fingerprint, "result": outcome.result}, indent=1))
    return code


def study(runs: Sequence[Run], about: dict[str, Any]) -> Study:
    """The finished runs among `runs`."""
    return Study(about, tuple(found for run in runs if (found := run.outcome()) is not None))


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the further arguments that set fields of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="configuration file, with its variant if need be")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=tuple(ablation.ROWS), default=list(ablation.ROWS))
    parser.add_argument("--steps", type=int, help="in place of the configuration's train.steps")
    args, overrides = parser.parse_known_args(arguments)
    return args, overrides + ([f"--config.train.steps={args.steps}"] if args.steps else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not finished. Returns the exit code: 0, or that of the run that did not come to its end."""
    args, overrides = parse(arguments)
    try:
        base = config.load(args.config, overrides)
        runs = plan(args.config, overrides, args.rows, args.seeds, args.workdir)
    except (errors.InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = " ".join([args.config, *overrides])
    about = {"config": command, "steps": base.train.steps, "batch_size": base.train.batch_size}
    for number, run in enumerate(runs, start=1):
        finished = run.outcome() is not None
        print(
            f"[{number}/{len(runs)}] {run.row}, seed {run.seed}{': finished already' if finished else ''}", flush=True
        )
        if not finished:
            if code := execute(run):
                print(f"{run.folder} ended with code {code}; the same command continues from there", file=sys.stderr)
                return code
        ablation_study.write(study(runs, about), args.workdir)
    print(ablation_study.page(study(runs, about)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
