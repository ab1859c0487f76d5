"""The first result of a process by made-up times, and the work of a segmented picture by its parts."""

import os

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from ahs_seg_jax.inference import CAT_SEG
from ahs_seg_jax.models import architecture
from benchmarks import inputs, report
from benchmarks.counting import flops
from benchmarks.settings import Settings, complete
from benchmarks.work import folder, host, serving
from tests.support.training import small_model


@pytest.fixture
def settings(monkeypatch) -> Settings:
    """The smallest whole model."""
    monkeypatch.setitem(architecture.PRESETS, "tiny", small_model)
    return complete(Settings(train_classes=5, batch=4, classes=5, image=(37, 53), repetitions=2), "cpu")


def test_start_up_compares_an_empty_cache_with_a_full_one(monkeypatch, settings):
    caches, times = [], iter([40.0, 12.0, 10.0, 11.0])

    def run(settings, weights, variables):
        assert weights.stat().st_size > 1000
        caches.append(variables["JAX_COMPILATION_CACHE_DIR"])
        process = next(times)
        return {"process": process, "first": process - 2, "second": 0.1, "beyond": process - 0.1}

    monkeypatch.setattr(serving, "_first_result", run)
    record = serving.start_up(settings)
    assert len(set(caches)) == 1
    assert record["seconds"]["median"] == 11.0
    assert record["cold"]["process"] == 40.0
    assert record["beyond"] == 10.9
    assert record["warm_share"] == {"process": 11 / 40, "first_result": 9 / 38}


def test_inputs_are_plausible(settings):
    params = inputs.parameters(settings.model())
    leaves = jax.tree.leaves(params)
    assert all(leaf.dtype == "float32" for leaf in leaves)
    assert (params["aggregator"]["decoder_1"]["norm_1"]["scale"] == 1).all()
    kernel = params["clip"]["text"]["blocks"]["mlp_in"]["kernel"]
    assert kernel.std() * kernel.shape[-2] ** 0.5 == pytest.approx(1, abs=0.1)
    batch = inputs.batch(settings)
    assert batch["image"].shape == (4, 24, 24, 3)
    assert 0 <= batch["label"].min() <= batch["label"].max() < 5
    assert (inputs.picture(settings, 0) != inputs.picture(settings, 1)).any()
    assert not set(inputs.vocabulary(3).names) & set(inputs.vocabulary(3, first=3).names)


def test_data_pipeline_counts_its_images(settings):
    action = host.data_pipeline(settings)
    assert action.items == host.BATCHES_A_CALL * 4
    assert len(action.call(0)) == host.BATCHES_A_CALL


def test_checkpoint_is_saved_and_timed(settings):
    record = host.checkpoint_save(settings)
    assert record["items"] > 1
    assert len(record["seconds"]["all"]) == len(record["seconds_waited"]["all"]) == 2
    assert record["seconds_waited"]["median"] <= record["seconds"]["median"]


@pytest.mark.parametrize("shared", [False, True])
def test_folder_beside_the_model_alone(settings, monkeypatch, tmp_path, shared):
    monkeypatch.setattr(folder, "PHOTOGRAPHS", 5)
    monkeypatch.delenv("AHS_SEG_SHARED", raising=False)
    if shared:
        place = tmp_path / "data" / "streets" / "images" / "val"
        place.mkdir(parents=True)
        Image.fromarray(inputs.picture(settings, 0)).save(place / "a.png")
        monkeypatch.setenv("AHS_SEG_SHARED", str(tmp_path))
    record = folder.fast_device(settings)
    assert (record["items"], record["pictures"]) == (5, "photographs" if shared else "drawn scenes")
    assert record["model"]["seconds"]["median"] >= folder.FAST
    assert record["model_share"] == pytest.approx(record["throughput"] / record["model"]["throughput"])
    assert record["throughput"] == pytest.approx(5 / record["seconds"]["median"])
    assert 0 < record["processor_seconds"] < record["seconds"]["median"] * os.cpu_count()
    shown = {"name": "folder", "settings": {}, "pictures": "images", "model_share": 0.5, "processor_seconds": 0.0125}
    assert "(5 images, 50 % of the model's own rate, 12.5 ms of a processor each)" in report._amount(record | shown)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "views"), [("whole_image", 1), ("sliding_window", 5), ("all_classes", 1)])
def test_pictures(settings, name, views):
    action = getattr(serving, name)(settings)
    assert action.call(0).shape == action.call(1).shape == (37, 53)
    function, (params, shape, text) = action.reference
    assert shape.shape[0] == views == len(CAT_SEG.views(inputs.picture(settings, 0), 24)[:views])
    one = jax.ShapeDtypeStruct((1, *shape.shape[1:]), jnp.float32)
    assert flops.count(function, params, shape, text).flops == pytest.approx(
        views * flops.count(function, params, one, text).flops, rel=0.05
    )


@pytest.mark.slow
def test_words(settings):
    assert serving.text_encoding(settings).call(0).shape == (5, 1, 16)


@pytest.mark.slow
def test_evaluation(settings):
    record = serving.evaluation(settings)
    assert record["throughput"] == record["items"] / record["seconds"]["median"]
