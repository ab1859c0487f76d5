"""The component ablation: trains each row with each seed, goes on where it was stopped, and tabulates mean and spread.

    python scripts/run_ablations.py --config=configs/tiny.py --seeds 0 1 2 --workdir=runs/ablations [--steps 400]

Any configuration will do; further fields are set as for the program itself (--config.train.batch_size=8). A run that is
finished is not repeated. Writes `ablation.md`, `ablation.json` and `ablation.png` into the workdir after every run.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from PIL import Image, ImageDraw, ImageFont

from ahs_seg_jax import ablation, config
from ahs_seg_jax.config import Experiment

METRICS = ("mIoU", "mIoU_seen", "mIoU_unseen")
SCALE, LEFT, RIGHT, ROW, TOP = 2, 150, 20, 34, 40  # of the plot, in pixels before scaling

Scores = dict[str, dict[int, dict[str, float | None]]]  # row -> seed -> metric -> percent


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

    def scores(self) -> dict[str, float | None] | None:
        """The final scores; None if the run is not finished, or if the file is of another run."""
        if not self.done.is_file():
            return None
        stored = json.loads(self.done.read_text())
        return stored["scores"] if stored["fingerprint"] == self.fingerprint else None


def load(path: str, overrides: Sequence[str]) -> Experiment:
    """The experiment that the program would run with `--config=path` and these further arguments."""
    values, command = flags.FlagValues(), ["run_ablations", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=command)
    if problems := config.unknown_overrides(list(overrides)):
        raise config.ConfigError(problems)
    values(command)
    return config.from_config_dict(values["config"].value)


def plan(
    path: str, overrides: Sequence[str], rows: Sequence[str], seeds: Sequence[int], workdir: pathlib.Path
) -> list[Run]:
    """All runs, seed by seed, so that a study that is stopped early has whole sets of rows."""
    base, runs = load(path, overrides), []
    for seed in seeds:
        for row in rows:
            experiment = dataclasses.replace(ablation.ablated(base, row), seed=seed, mode="train")
            if problems := experiment.problems():
                raise config.ConfigError([f"row {row}: {problem}" for problem in problems])
            folder = workdir / f"{row}_seed{seed}"
            fields = {"name": experiment.name, "seed": seed, "mode": "train", **ablation.changes(base, row)}
            set_fields = [f"--config.{field}={value}" for field, value in fields.items()]
            arguments = [f"--config={path}", *overrides, *set_fields, f"--workdir={folder}"]
            runs.append(Run(row, seed, folder, arguments, config.fingerprint(experiment)))
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
        final = max(results, key=lambda content: content["checkpoint"]["step"])
        stored = {"fingerprint": run.fingerprint, "scores": {name: final["scores"][name] for name in METRICS}}
        run.done.write_text(json.dumps(stored | {"protocol": final["protocol"], "data": final["data"]}, indent=1))
    return code


def spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, the mean alone for a single value, `-` for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _values(by_seed: Mapping[int, Mapping[str, float | None]], metric: str) -> dict[int, float]:
    return {seed: value for seed, found in by_seed.items() if (value := found[metric]) is not None}


def table(scores: Scores, title: str) -> str:
    """The study in Markdown. Differences from row `none` are taken seed by seed."""
    lines = [
        "# Component ablation: a small-scale study",
        "",
        title,
        "Mean ± standard deviation over the seeds, in percent. Differences of the size of the spread mean nothing, and none",
        "of these numbers says how the components do at the published size.",
        "",
        "| row | HA-HEM | MH-FPN | DC-HSP | mIoU | seen | unseen | mIoU - none | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    none = _values(scores.get("none", {}), "mIoU")
    for row, by_seed in scores.items():
        marks = ["x" if on else "" for on in ablation.ROWS[row]]
        cells = [spread(list(_values(by_seed, metric).values())) for metric in METRICS]
        own = _values(by_seed, "mIoU")
        gain = "" if row == "none" else spread([own[seed] - none[seed] for seed in own if seed in none])
        lines.append(f"| {' | '.join([row, *marks, *cells, gain, str(len(by_seed))])} |")
    return "\n".join(lines) + "\n"


def plot(scores: Scores, title: str) -> Image.Image:
    """A dot a run, a bar at each row's mean, over mIoU in percent."""
    rows = {row: list(_values(by_seed, "mIoU").values()) for row, by_seed in scores.items()}
    everything = [value for values in rows.values() for value in values]
    low, high = int(min(everything)) - 1, int(max(everything)) + 2
    width, height = 640, TOP + ROW * len(rows) + 30
    picture = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12 * SCALE)

    def at(value: float) -> float:
        return (LEFT + (value - low) / (high - low) * (width - LEFT - RIGHT)) * SCALE

    draw.text((LEFT * SCALE, 8 * SCALE), title, "black", font)
    for tick in range(low, high + 1, max(1, (high - low) // 8)):
        draw.line((at(tick), TOP * SCALE, at(tick), (height - 26) * SCALE), "#dddddd", SCALE)
        draw.text((at(tick), (height - 22) * SCALE), str(tick), "black", font, anchor="ma")
    for number, (row, values) in enumerate(rows.items()):
        y = (TOP + (number + 0.5) * ROW) * SCALE
        draw.text(((LEFT - 12) * SCALE, y), row, "black", font, anchor="rm")
        mean = at(statistics.fmean(values))
        draw.rectangle((mean - SCALE, y - 11 * SCALE, mean + SCALE, y + 11 * SCALE), "#333333")
        for value in values:
            draw.circle((at(value), y), 4 * SCALE, "#3070b0", "white")
    return picture


def report(runs: Sequence[Run], workdir: pathlib.Path, about: str) -> str:
    """Writes the study as far as it is; returns the table."""
    scores: Scores = {}
    for run in runs:
        if (found := run.scores()) is not None:
            scores.setdefault(run.row, {})[run.seed] = found
    if not scores:
        return ""
    scores = {row: scores[row] for row in ablation.ROWS if row in scores}
    text = table(scores, about)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "ablation.md").write_text(text, encoding="utf-8")
    (workdir / "ablation.json").write_text(json.dumps({"about": about, "scores": scores}, indent=1) + "\n")
    if any(_values(by_seed, "mIoU") for by_seed in scores.values()):
        shown = {row: by_seed for row, by_seed in scores.items() if _values(by_seed, "mIoU")}
        plot(shown, "mIoU in percent: a dot a seed, a bar the mean").save(workdir / "ablation.png")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not finished. Returns the exit code: 0, or that of the run that did not come to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="configuration file, with its variant if need be")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=tuple(ablation.ROWS), default=list(ablation.ROWS))
    parser.add_argument("--steps", type=int, help="in place of the configuration's train.steps")
    args, overrides = parser.parse_known_args(arguments)
    overrides += [f"--config.train.steps={args.steps}"] if args.steps else []
    try:
        base = load(args.config, overrides)
        runs = plan(args.config, overrides, args.rows, args.seeds, args.workdir)
    except (config.InputError, flags.Error, OSError) as error:
        print(f"error: {config.innermost(error)}", file=sys.stderr)
        return 2
    about = (
        f"`{args.config}`, {base.train.steps} steps of {base.train.batch_size} images, data `{base.data.name}`, protocol "
        f"`{base.eval.protocol}`, seeds {', '.join(map(str, args.seeds))}."
    )
    for number, run in enumerate(runs, start=1):
        finished = run.scores() is not None
        print(
            f"[{number}/{len(runs)}] {run.row}, seed {run.seed}{': finished already' if finished else ''}", flush=True
        )
        if finished:
            continue
        if code := execute(run):
            print(f"{run.folder} ended with code {code}; the same command continues from there", file=sys.stderr)
            return code
        report(runs, args.workdir, about)
    print(report(runs, args.workdir, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
