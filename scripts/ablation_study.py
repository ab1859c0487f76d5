"""An ablation study as it is stored and shown: scores of each row with each seed, a table and a picture of them.

`scripts/run_ablations.py` runs one, `scripts/ablation_page.py` makes `docs/ablation.md` out of its file.
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ahs_seg_jax.config import ablation

METRICS = ("mIoU", "mIoU_seen", "mIoU_unseen")
SCALE, LEFT, RIGHT, ROW, TOP = 2, 150, 20, 34, 40  # of the picture, in pixels before scaling
PICTURE = "ablation.png"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run: its row, its seed, and the content of its results file without the single classes."""

    row: str
    seed: int
    result: dict[str, Any]

    def score(self, metric: str) -> float | None:
        """A score in percent; None if the run has none, such as mIoU_unseen where every class was seen."""
        return self.result["scores"][metric]


@dataclasses.dataclass(frozen=True)
class Study:
    """Finished runs, and what all of them have in common.

    `about` has `config` (the configuration file and the fields that were set), `steps` and `batch_size`.
    """

    about: dict[str, Any]
    outcomes: tuple[Outcome, ...]

    def by_row(self) -> dict[str, list[Outcome]]:
        """The outcomes of each row that has any, in the order of `ablation.ROWS`, and in it by seed."""
        ordered = sorted(self.outcomes, key=lambda outcome: outcome.seed)
        rows = {row: [outcome for outcome in ordered if outcome.row == row] for row in ablation.ROWS}
        return {row: outcomes for row, outcomes in rows.items() if outcomes}

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Study":
        """The inverse of `to_json`. Raises ValueError if the text is no study."""
        try:
            content = json.loads(text)
            outcomes = tuple(Outcome(**outcome) for outcome in content["outcomes"])
            study = cls(content["about"], outcomes)
            page(study)  # reads every field that matters
        except (KeyError, TypeError) as error:
            raise ValueError(f"it holds no ablation study ({error!r})") from error
        return study


def spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` of a sample, the mean alone for a single value, `-` for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _values(outcomes: Sequence[Outcome], metric: str) -> dict[int, float]:
    """Seed -> score of the runs that have this score."""
    return {outcome.seed: value for outcome in outcomes if (value := outcome.score(metric)) is not None}


def table(study: Study) -> str:
    """The table in Markdown. Differences from row `none` are taken seed by seed."""
    lines = [
        "| row | HA-HEM | MH-FPN | DC-HSP | mIoU | seen | unseen | mIoU - none | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = study.by_row()
    none = _values(rows.get("none", []), "mIoU")
    for row, outcomes in rows.items():
        marks = ["x" if on else "" for on in ablation.ROWS[row]]
        cells = [spread(list(_values(outcomes, metric).values())) for metric in METRICS]
        own = _values(outcomes, "mIoU")
        gain = "" if row == "none" else spread([own[seed] - none[seed] for seed in own if seed in none])
        lines.append(f"| {' | '.join([row, *marks, *cells, gain, str(len(outcomes))])} |")
    return "\n".join(lines)


def page(study: Study, picture: str = PICTURE) -> str:
    """The study in Markdown; `picture` is the path of its picture as seen from the page."""
    about, results = study.about, [outcome.result for outcome in study.outcomes]
    seeds = sorted({outcome.seed for outcome in study.outcomes})
    protocols = sorted({result["protocol"] for result in results})
    images = sorted({result["data"]["images"] for result in results})
    devices = sorted({f"{result['hardware']['devices']} x {result['hardware']['device']}" for result in results})
    return f"""# Component ablation: a small-scale study

Each component of the model switched on and off:
`{about["config"]}`, {about["steps"]} steps of {about["batch_size"]} images,
seeds {_listed(seeds)}; protocol `{_listed(protocols)}`, {_listed(images)} images, {_listed(devices)}.

Mean ± standard deviation over the seeds, in percent. Differences of the size of the spread mean nothing, and none of
these numbers says how the components do at the published size, with CLIP's weights and the full recipe.

{table(study)}

![A dot a run, a bar at the mean of each row]({picture})
"""


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def plot(study: Study) -> Image.Image:
    """A picture with a dot for each run and a bar at the mean of each row, over mIoU in percent."""
    found = {row: list(_values(outcomes, "mIoU").values()) for row, outcomes in study.by_row().items()}
    rows = {row: values for row, values in found.items() if values}
    everything = [value for values in rows.values() for value in values] or [0.0]
    low, high = int(min(everything)) - 1, int(max(everything)) + 2
    width, height = 640, TOP + ROW * len(rows) + 30
    picture = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12 * SCALE)

    def at(value: float) -> float:
        return (LEFT + (value - low) / (high - low) * (width - LEFT - RIGHT)) * SCALE

    title = f"mIoU in percent after {study.about['steps']} steps: a dot a seed, a bar the mean"
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


def write(study: Study, folder: pathlib.Path) -> None:
    """`ablation.json`, `ablation.md` and `ablation.png` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.json").write_text(study.to_json(), encoding="utf-8")
    (folder / "ablation.md").write_text(page(study), encoding="utf-8")
    plot(study).save(folder / PICTURE)


def outcome_of(row: str, seed: int, results: Sequence[Mapping[str, Any]]) -> Outcome:
    """The outcome of a run by its results files: the one of the last step counts."""
    final = max(results, key=lambda content: content["checkpoint"]["step"])
    # Paths say something of the machine alone, and the single classes make the file long.
    checkpoint = {name: value for name, value in final["checkpoint"].items() if name != "path"}
    kept = {name: value for name, value in final.items() if name not in ("classes", "pictures")}
    return Outcome(row, seed, kept | {"checkpoint": checkpoint})
