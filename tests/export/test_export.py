"""Export: run by its own loader in a process without this program, it gives the segmenter's numbers."""

import copy
import importlib.metadata
import json
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.export import export, stablehlo
from ahs_seg_jax.inference import WHOLE
from ahs_seg_jax.models import arrangement
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support import onnx_files
from tests.support.images import photo
from tests.support.small import inference_model, random_params

NAMES = ("red", "old oak tree", "sky", "blue", "green")
RUN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import loader
model, given = loader.Exported(sys.argv[1]), np.load(sys.argv[2])
text = [model("encode_text", given["tokens"])] if "encode_text" in model.programs else []
found = {"text": text[0]} if text else {}
for count in (1, 2):
    found[f"logits_{count}"] = model("segment", given["images"][:count], *text)
if text:
    found["fewer"] = model("segment", given["images"][:1], text[0][:3])
np.savez(sys.argv[3], **found)
assert "ahs_seg_jax" not in sys.modules and "flax" not in sys.modules
"""


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    config = inference_model()  # with padding tokens
    return Segmenter(config, random_params(config))


def test_a_missing_library_is_named(segmenter, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with pytest.raises(ImportError, match=r"exporting needs flatbuffers: pip install 'ahs_seg_jax\[export\]'"):
        export.export(segmenter, tmp_path / "model", NAMES)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("names", [None, NAMES], ids=["words as input", "words baked in"])
def test_parity(segmenter, tmp_path, names):
    pytest.importorskip("flatbuffers")
    on_tpu = copy.copy(segmenter)  # written the same wherever it is exported
    on_tpu.engine = copy.copy(segmenter.engine)
    on_tpu.engine.model = segmenter.engine.model.clone(arrangement=arrangement.TPU)
    export.export(on_tpu, tmp_path / "model", names)
    images = [photo(29, 37, seed) for seed in (0, 1)]
    views = np.concatenate([WHOLE.views(image, 32) for image in images])
    tokens = Vocabulary(NAMES).tokens(32)
    tokens = np.pad(tokens, ((0, 0), (0, 0), (0, 32 - tokens.shape[2])))
    np.savez(tmp_path / "given.npz", images=views, tokens=tokens)
    command = [sys.executable, "-c", RUN, tmp_path / "model", tmp_path / "given.npz", tmp_path / "found.npz"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert not done.returncode, done.stderr
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    expected = np.stack([segmenter.logits(image, NAMES) for image in images])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found["logits_2"], expected, atol=1e-5 * scale)
    np.testing.assert_allclose(found["logits_1"], expected[:1], atol=1e-5 * scale)
    if names is None:
        np.testing.assert_allclose(found["text"], segmenter.encode_prompts(Vocabulary(NAMES)), atol=1e-6)
        np.testing.assert_allclose(found["fewer"][0], segmenter.logits(images[0], NAMES[:3]), atol=1e-5 * scale)
    about = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert about["names"] == (None if names is None else list(names))
    assert (about["side"], about["platforms"]) == (32, ["cpu", "cuda", "tpu"])
    assert about["loads_with"].startswith(f"JAX {jax.__version__} or newer")


def test_onnx_parity(segmenter, tmp_path):
    runtime = onnx_files.runtime()
    export.export(segmenter, tmp_path / "model", None, "onnx")
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3
    encode, segment = (
        runtime.InferenceSession(tmp_path / "model" / f"{name}.onnx", quiet) for name in ("encode_text", "segment")
    )
    tokens = Vocabulary(NAMES).tokens(32)
    tokens = np.pad(tokens, ((0, 0), (0, 0), (0, 32 - tokens.shape[2])))
    text = np.concatenate([encode.run(None, {"tokens": row[None]})[0] for row in tokens])
    np.testing.assert_allclose(text, segmenter.encode_prompts(Vocabulary(NAMES)), atol=1e-6)
    images = [photo(29, 37, seed) for seed in (0, 1)]
    views = np.concatenate([WHOLE.views(image, 32) for image in images])
    for count, classes in ((2, 5), (1, 3)):
        [found] = segment.run(None, {"images": views[:count], "text": text[:classes]})
        expected = np.stack([segmenter.logits(image, NAMES[:classes]) for image in images[:count]])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    about = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert (about["format"], about["platforms"]) == ("onnx", [])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "encode_text.onnx",
        "manifest.json",
        "segment.onnx",
    ]


def test_a_jax_that_jax2onnx_does_not_know_is_said_before_a_model_is_read(tmp_path, monkeypatch):
    def recurse(*_, **__):
        raise RecursionError  # as jax2onnx 0.13 with JAX 0.12

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=recurse))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.13.0")
    monkeypatch.setattr(export.Segmenter, "from_pretrained", None)
    words = rf"jax2onnx 0\.13\.0 cannot read the programs of JAX {re.escape(jax.__version__)} \(RecursionError\); in an"
    with pytest.raises(ImportError, match=words):
        export.export("tiny", tmp_path / "model", None, "onnx")


def test_onnx_needs_its_library(segmenter, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"exporting as ONNX needs jax2onnx: pip install 'ahs_seg_jax\[onnx\]'"):
        export.export(segmenter, tmp_path / "model", NAMES, "onnx")
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(segmenter, tmp_path):
    with pytest.raises(CheckpointError, match="exists already and is never overwritten"):
        export.export(segmenter, tmp_path, None)


def test_the_loader_is_short():
    loader = stablehlo.loader_text()
    assert len(loader.splitlines()) <= 25
    assert "ahs_seg_jax" not in loader


def test_a_program_of_a_newer_jax_is_refused_in_words(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"loads_with": "JAX 99.1.0 or newer"}))
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, tmp_path / "weights.safetensors")
    (tmp_path / "segment.stablehlo").write_bytes(b"\x10\0\0\0what this JAX does not know")
    scope = {"__name__": "loader"}
    exec(stablehlo.loader_text(), scope)
    with pytest.raises(RuntimeError, match=r"JAX [\d.]+ cannot read this export: it needs JAX 99.1.0 or newer"):
        scope["Exported"](tmp_path)
