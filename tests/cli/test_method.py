"""The method of a plain CLIP on the command line: what segments, what results say, what is compared and exported."""

import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.checkpoints import converted
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.cli import benchmark, compare, segment_files
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.export import export
from ahs_seg_jax.segmenter import Segmenter, read_png
from tests.support import onnx_files
from tests.support.training_free import SMALL, small_clip, small_goldens

NAMES = ("wall, sky", "flag", "face")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A converted folder that holds the small CLIP only, and a picture beside it."""
    folder = tmp_path_factory.mktemp("clip")
    converted.save_converted(
        folder / "clip",
        Pretrained(SMALL, small_clip(), manifests.describe(SMALL, {"path": "clip.pt", "layout": "openai_clip"})),
    )
    Image.fromarray(small_goldens().stored["image"]).save(folder / "a.png")
    return folder


def settings(plain, **changes) -> Settings:
    given = {"protocol": None, "unknown": "none", "keep": "model", "memory_gb": None}
    return Settings(classes=NAMES, model=str(plain / "clip"), **(given | changes))


def test_a_plain_clip_segments_and_the_results_say_how(plain, tmp_path, capsys):
    assert segment_files.run([str(plain / "a.png")], tmp_path / "out", settings(plain), overlays=False) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["method"] == "naclip"
    expected = Segmenter(SMALL, small_clip(), method="naclip")(small_goldens().stored["image"], NAMES)
    np.testing.assert_array_equal(read_png(tmp_path / "out" / "labels" / "a.png")[0], expected.labels)
    other = settings(plain, method="clearclip")
    with pytest.raises(ValueError, match="holds results with another method"):
        segment_files.run([str(plain / "a.png")], tmp_path / "out", other)
    capsys.readouterr()
    assert segment_files.run([str(plain / "a.png")], tmp_path / "out", other, only_plan=True) == 0
    said = capsys.readouterr().out
    assert "training-free method clearclip, not refined" in said
    assert "\n4 classes, in 1 pass(es)" in said  # synonyms are queries of their own


def test_results_of_other_weights_under_the_same_name_are_not_continued(plain, tmp_path):
    model = tmp_path / "clip"
    shutil.copytree(plain / "clip", model)
    chosen = dataclasses.replace(settings(plain), model=str(model))
    run = lambda: segment_files.run([str(plain / "a.png")], tmp_path / "out", chosen, overlays=False)
    assert run() == 0
    summary = tmp_path / "out" / "summary.json"
    assert run() == 0
    shutil.rmtree(model)
    about = manifests.describe(SMALL, {"path": "clip.pt", "layout": "openai_clip", "sha256": "another"})
    converted.save_converted(model, Pretrained(SMALL, small_clip(), about))
    with pytest.raises(ValueError, match="holds results with another weights; choose another --output"):
        run()
    content = json.loads(summary.read_text())
    for later in ("weights", "activation"):  # an earlier version did not say these
        del content["settings"][later]
    summary.write_text(json.dumps(content))
    assert run() == 0


def test_methods_side_by_side(plain, tmp_path):
    shown = [compare.Shown(str(plain / "clip"), NAMES, method) for method in ("naclip", "clearclip")]
    assert compare.run([str(plain / "a.png")], shown, tmp_path / "out", None, None) == 0
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width > 3 * 71


def test_speed_of_a_method(plain, tmp_path, capsys):
    benchmark.run(str(plain / "clip"), 3, (41, 37), 1, None, tmp_path / "speed.json", "clearclip")
    assert "by clearclip, 3 names" in capsys.readouterr().out
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["settings"]["method"] == "clearclip"
    assert [stage["stage"] for stage in report["stages"]][2:4] == ["slide: new image", "slide: known image"]


def test_an_export_has_the_chosen_last_block(plain, tmp_path):
    pytest.importorskip("flatbuffers")
    export.export(str(plain / "clip"), tmp_path / "model", None, method="sclip")
    spec = importlib.util.spec_from_file_location("loader", tmp_path / "model" / "loader.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    exported = loader.Exported(tmp_path / "model")
    assert (exported.manifest["method"], exported.manifest["side"]) == ("sclip", 48)
    assert exported.manifest["training_free"]["logit_scale"] == 40.0
    assert len(exported.manifest["templates"]) == 80
    segmenter = Segmenter(SMALL, small_clip(), method="sclip")
    text = segmenter.encode_prompts(segmenter.as_vocabulary(NAMES))
    views = segmenter.protocol.views(small_goldens().stored["image"], 0)
    found = exported("segment", views, text)
    expected = segmenter.engine.logits(small_goldens().stored["image"], text, segmenter.protocol)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_onnx_of_a_method(plain, tmp_path):
    runtime = onnx_files.runtime()
    export.export(str(plain / "clip"), tmp_path / "model", NAMES, "onnx", method="naclip")
    session = runtime.InferenceSession(tmp_path / "model" / "segment.onnx")
    segmenter = Segmenter(SMALL, small_clip(), method="naclip")
    image, text = small_goldens().stored["image"], segmenter.encode_prompts(segmenter.as_vocabulary(NAMES))
    [found] = session.run(None, {"images": segmenter.protocol.views(image, 0)})
    np.testing.assert_allclose(found, segmenter.engine.logits(image, text, segmenter.protocol), atol=1e-5)
