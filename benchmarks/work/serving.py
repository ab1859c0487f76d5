"""What users of a trained model wait for: words, pictures, evaluations, and the first result of a process."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.config import DataConfig, EvalConfig, ScenesConfig
from ahs_seg_jax.data import catalogue
from ahs_seg_jax.evaluation import score
from ahs_seg_jax.inference import encoding
from ahs_seg_jax.inference.keeping import Margin
from ahs_seg_jax.inference.protocols import Protocol, find_protocol
from ahs_seg_jax.models import arrangement, orthogonal
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.segmenter import Segmenter
from benchmarks import inputs
from benchmarks.measure import Action, Record, spread
from benchmarks.settings import Settings

FIRST_RESULT_RUNS = 3  # processes that start from the cache


def text_encoding(settings: Settings) -> Action:
    """Encodes a vocabulary of `classes` names with the merged text tower."""
    model, params = encoding.merged(build_model(settings.model()), jax.device_put(inputs.parameters(settings.model())))
    words = inputs.vocabulary(settings.classes)
    prompts = jax.ShapeDtypeStruct(
        words.tokens(model.config.text.context, model.config.text.tokenizer).shape, jnp.int32
    )
    reference = lambda params, tokens: model.apply({"params": params}, tokens, method="encode_text")

    def call(index: int) -> Any:
        return encoding.encode_vocabulary(model, params, inputs.vocabulary(settings.classes, 100_000 * index))

    return Action(call, settings.classes, "classes", (reference, (shapes(params), prompts)))


def shapes(tree: Any) -> Any:
    """Shapes and types in place of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _segmentation(settings: Settings, protocol: str, keep: Any = "model") -> Action:
    """Segments pictures, each a new one, to labels in host memory; the words are encoded before."""
    segmenter = Segmenter(settings.model(), inputs.parameters(settings.model()), protocol=protocol, keep=keep)
    segmenter.set_vocabulary(inputs.vocabulary(settings.classes))
    return Action(
        lambda index: segmenter(inputs.picture(settings, index)).labels,
        1,
        "images",
        forward(segmenter, settings.classes, protocol),
    )


def forward(segmenter: Segmenter, classes: int, protocol: str | Protocol) -> tuple[Any, tuple[Any, ...]]:
    """A function that runs the model on all views of a picture without padding or chunks, and its arguments' shapes."""
    config = segmenter.config
    keep = segmenter.engine.keep
    most = keep.most if isinstance(keep, Margin) else keep
    cut = dataclasses.replace(config.aggregator, pad_len=most or 0)
    model = segmenter.engine.model.clone(
        config=config.replace(class_chunk=0, remat="none", aggregator=cut), arrangement=arrangement.DEFAULT
    )

    def run(params: Any, views: jax.Array, text: jax.Array) -> jax.Array:
        features = model.apply({"params": params}, views, method="encode_image")
        return model.apply({"params": params}, features, text, method="segment")[0]

    views = jax.ShapeDtypeStruct(find_protocol(protocol).views_shape(config.image.crop), jnp.float32)
    text = jax.ShapeDtypeStruct((classes, 1, config.embed_dim), jnp.float32)
    return run, (shapes(segmenter.engine.params), views, text)


def whole_image(settings: Settings) -> Action:
    """Segments a picture by one view; the words are encoded before."""
    return _segmentation(settings, "whole")


def sliding_window(settings: Settings) -> Action:
    """Segments a picture by the published protocol, windows and a global view; the words are encoded before."""
    return _segmentation(settings, "cat_seg")


def all_classes(settings: Settings) -> Action:
    """Segments a picture by one view with all classes kept, to see how time grows with their number."""
    return _segmentation(settings, "whole", keep=None)


def evaluation(settings: Settings) -> Record:
    """Scores drawn scenes, with reading them and counting pixels. The first round, which compiles, is left out."""
    images = 8 if settings.repetitions <= 3 else 32
    scenes = ScenesConfig(size=max(settings.image), val_images=images)
    source = catalogue.open_source(DataConfig(name="scenes", scenes=scenes), "val")
    model = build_model(settings.model())
    weights = score.Weights(*encoding.merged(model, jax.device_put(inputs.parameters(settings.model()))))
    scored, seconds = EvalConfig(batch_size=max(4, jax.device_count()), pictures=0), []
    for _ in range(2):
        started = time.perf_counter()
        score.evaluate(weights, source, scored)
        seconds.append(time.perf_counter() - started)
    found = spread(seconds[1:])
    return {"seconds": found, "items": images, "unit": "images", "throughput": images / found["median"], "flops": None}


# ------------------------------------------------------------------------------------------ the first result

_FIRST_RESULT = """
import json, sys, time
times = {}
started = time.perf_counter()
def past(stage):
    global started
    times[stage], started = time.perf_counter() - started, time.perf_counter()
from ahs_seg_jax import Segmenter, Vocabulary
import numpy as np
past("imports")
segmenter = Segmenter.from_pretrained(sys.argv[1], protocol="whole")
past("weights")
size, names = json.loads(sys.argv[2]), tuple(json.loads(sys.argv[3]))
segmenter.set_vocabulary(Vocabulary(names))
past("words")
for index, stage in enumerate(("first", "second", "third")):
    picture = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
    segmenter(picture)
    past(stage)
print(json.dumps(times))
"""


def start_up(settings: Settings) -> Record:
    """Times processes until their pictures, from a file of weights: one with empty caches, then others with full ones.

    `beyond` is what a process with full caches takes beyond the computation of one picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / "model.safetensors"
        config, params = orthogonal.merge(settings.model(), inputs.parameters(settings.model()))
        writers.write(weights, "ahs_seg", config, jax.tree.map(np.asarray, params))
        variables = {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "AHS_SEG_TEXT_CACHE": f"{folder}/texts",
        }
        runs = [_first_result(settings, weights, variables) for _ in range(1 + FIRST_RESULT_RUNS)]
    cold, warm = runs[0], runs[1:]
    found = spread([run["process"] for run in warm])
    first = float(np.median([run["first"] for run in warm]))
    return {
        "seconds": found,
        "items": 1,
        "unit": "starts",
        "throughput": 1 / found["median"],
        "flops": None,
        "cold": cold,
        "warm": warm,
        "warm_share": {"process": found["median"] / cold["process"], "first_result": first / cold["first"]},
        "beyond": float(np.median([run["beyond"] for run in warm])),
    }


def _first_result(settings: Settings, weights: pathlib.Path, variables: dict[str, str]) -> dict[str, float]:
    """Seconds of the stages of one process, of all of it, and of it beyond one picture."""
    names = json.dumps(inputs.vocabulary(settings.classes).names)
    command = [sys.executable, "-c", _FIRST_RESULT, str(weights), json.dumps(settings.image), names]
    started = time.perf_counter()
    environment = os.environ | variables
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, every process compiles what it imports
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found, process = json.loads(output.splitlines()[-1]), time.perf_counter() - started
    process -= found["second"] + found["third"]
    return found | {"process": process, "beyond": process - found["third"]}
