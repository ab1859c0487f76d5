"""Every training-free method beside the stored numbers of its published program, stage by stage, as a results file.

    python scripts/training_free_goldens.py
    python scripts/training_free_goldens.py --shared FOLDER    # also ViT-B/16, whose numbers lie there

`python -m benchmarks.report` puts the file into docs/training_free_programs.md.
"""

import argparse
import datetime
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the folder of a script there

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.versions import versions
from benchmarks import machine, results_file
from benchmarks.published.free_goldens import Goldens, stages
from tests.support import training_free
from tests.support.goldens import parameters

EXACT = ("resized", "labels")  # whose values are equal or not


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=pathlib.Path, help="folder with golden/training_free_vitb16.npz")
    parser.add_argument("--output", type=pathlib.Path, help="results file")
    return parser.parse_args(arguments)


def found(goldens: Goldens, config: ModelConfig, params: Any) -> dict[str, dict[str, float]]:
    """Of every case and stage: the share of equal values, or the largest difference."""
    shown = {}
    for case in goldens.cases:
        compared = stages(goldens, case, config, params)
        shown[case] = {stage.stage: stage.equal if stage.stage in EXACT else stage.difference for stage in compared}
        print(case, " ".join(f"{name} {value:.2g}" for name, value in shown[case].items()), flush=True)
    return shown


def files(shared: pathlib.Path | None) -> Iterator[tuple[str, Goldens, ModelConfig, Any]]:
    """Name of the model, numbers, configuration, parameters."""
    yield "2 blocks", training_free.small_goldens(), training_free.SMALL, training_free.small_clip()
    if shared:
        spec = importlib.util.spec_from_file_location("weights", shared / "golden" / "weights.py")
        assert spec is not None
        assert spec.loader is not None
        weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(weights)
        config = architecture.vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
        entries = layouts.entries("openai_clip", config)
        params = parameters(weights.state_dict("openai_clip_vitb16"), list(entries), "", "")
        yield "ViT-B/16", Goldens.load(shared / "golden" / "training_free_vitb16.npz"), config, params


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file."""
    args = parse(arguments)
    date = datetime.datetime.now(datetime.UTC)
    output = args.output or ROOT / "benchmarks" / "results" / f"free_goldens_{date.date().isoformat()}.json"
    for model, goldens, config, params in files(args.shared):
        settings = {"model": model, "dtype": "float32"}
        record = {
            "key": results_file.key("free_goldens", settings),
            "name": "free_goldens",
            "settings": settings,
            "cases": found(goldens, config, params),
            "hardware": machine.describe(),
            "versions": versions(),
            "date": date.isoformat(timespec="seconds"),
        }
        results_file.add(output, record)
    print(output)


if __name__ == "__main__":
    main()
