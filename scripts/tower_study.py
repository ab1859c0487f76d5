"""Towers of equal small size, trained from nothing: CLIP's kind, SigLIP's and PE's, with several seeds.

    python scripts/tower_study.py --data scenes --steps 400              # drawn scenes
    python scripts/tower_study.py --data folder --root <folder> --steps 200
    python scripts/tower_study.py --write-only                           # the page, from results/towers.json
    python scripts/tower_study.py --check                                # fails if the page says anything else

What differs is the kind of tower alone: class token, positions, pooling head, activation, and what the text tower sees.
Widths, depths, joint embedding, data, recipe and steps are the same. Each run's record goes to the file as soon as it
is there; a run that the file holds is not repeated.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the folder of a script there

from ahs_seg_jax.config import Experiment, loading
from ahs_seg_jax.models.architecture import ModelConfig
from benchmarks import results_file

JSON, PAGE = ROOT / "results" / "towers.json", ROOT / "docs" / "towers.md"
EMBEDDING = 128  # SigLIP's features are as wide as its tower, so the others' are, too
KINDS: dict[str, tuple[str, str, str]] = {  # image tower, text tower, activation
    "clip": ("clip", "clip", "quick_gelu"),
    "siglip": ("siglip", "siglip", "gelu_tanh"),
    "pe": ("pe", "clip", "gelu"),
}
CONFIGS = {"scenes": "tiny", "folder": "folder"}  # data -> the configuration whose recipe is taken
NAMES = {"scenes": "drawn scenes", "folder": "street photographs (CamVid, reduced)"}


def model_of(kind: str, base: ModelConfig) -> ModelConfig:
    """The model with towers of a kind."""
    image, text, activation = KINDS[kind]
    return base.replace(
        image=dataclasses.replace(base.image, tower=image, activation=activation),
        text=dataclasses.replace(base.text, tower=text, activation=activation),
        embed_dim=EMBEDDING,
    )


def experiment_of(data: str, kind: str, seed: int, steps: int, root: str) -> Experiment:
    """One run of the study."""
    base: Experiment = loading.module(ROOT / "configs" / f"{CONFIGS[data]}.py").experiment()
    return dataclasses.replace(
        base,
        name=f"towers_{kind}",
        seed=seed,
        model=model_of(kind, base.model),
        data=dataclasses.replace(base.data, root=root),
        train=dataclasses.replace(base.train, steps=steps, checkpoint_every=steps, eval_every=0),
        eval=dataclasses.replace(base.eval, pictures=0),
    )


def run(experiment: Experiment) -> dict[str, Any]:
    """Trains and scores; returns the scores, the parameters of the towers and the seconds."""
    import jax

    from ahs_seg_jax.checkpoints import starting
    from ahs_seg_jax.training.train import train

    shapes = jax.eval_shape(lambda: starting.fresh_params(experiment))["clip"]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as workdir:
        train(experiment, workdir)
        found = [json.loads(path.read_text()) for path in pathlib.Path(workdir, "results").glob("*.json")]
    final = max(found, key=lambda content: content["checkpoint"]["step"])
    counts = {side: sum(leaf.size for leaf in jax.tree.leaves(shapes[side])) for side in ("image", "text")}
    return {"scores": final["scores"], "images": final["data"]["images"], "parameters": counts} | {
        "seconds": round(time.monotonic() - started, 1)
    }


def spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation (each)` in percent."""
    mean = f"{statistics.fmean(values):.1f}"
    each = ", ".join(f"{value:.1f}" for value in values)
    return f"{mean} ± {statistics.stdev(values):.1f} ({each})" if len(values) > 1 else mean


def blocks(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The page's table. Runs of one line differ in their seed alone."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        groups.setdefault((record["data"], record["steps"], record["kind"]), []).append(record)
    rows = []
    for data, steps, kind in sorted(
        groups, key=lambda group: (group[0] != "scenes", group[1], list(KINDS).index(group[2]))
    ):
        found = groups[data, steps, kind]
        scores = [[record["scores"][name] for record in found] for name in ("mIoU", "pACC")]
        count = found[0]["parameters"]["image"]
        seeds = ", ".join(str(record["seed"]) for record in found)
        rows.append([NAMES[data], str(steps), kind, f"{count:,}", *map(spread, scores), seeds])
    header = ("data", "steps", "towers", "parameters of the image tower", "mIoU", "pixels right", "seeds")
    return {"study": results_file.table(header, rows) if rows else "Not run."}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(CONFIGS), default="scenes")
    parser.add_argument("--root", default="", help="the folder of images and masks, for --data folder")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--write-only", action="store_true", help="train nothing, write the page")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page differs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring. Returns the exit code."""
    options = parse(arguments)
    known = {record["key"] for record in results_file.read(JSON)}
    for seed in options.seeds if not (options.check or options.write_only) else ():
        for kind in options.kinds:
            asked = {"data": options.data, "kind": kind, "seed": seed, "steps": options.steps}
            key = results_file.key("towers", asked)
            if key not in known:
                found = run(experiment_of(options.data, kind, seed, options.steps, options.root))
                results_file.add(JSON, {"key": key, **asked, **found})
                print(key, found["scores"], f"{found['seconds']} s", flush=True)
    text = results_file.marked(PAGE.read_text(encoding="utf-8"), blocks(results_file.read(JSON)))
    return results_file.write_or_check({PAGE: text}, options.check, "run python scripts/tower_study.py --write-only")


if __name__ == "__main__":
    sys.exit(main())
