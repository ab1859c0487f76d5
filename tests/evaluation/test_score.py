"""Evaluation of a model that compares colours: scores by hand, batches and devices, broken files, the results file."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import progress
from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import DataProblem
from ahs_seg_jax.evaluation import results, score
from ahs_seg_jax.inference import PROTOCOLS, compiled
from ahs_seg_jax.models import parameters
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support import ROOT
from tests.support.color_model import (
    COLORS,
    PARAMS,
    ColorModel,
    Interrupted,
    ListSource,
    Stopping,
    by_hand,
    evaluate,
    filled,
    one_device,
    random_source,
)
from tests.support.processes import free_port
from tests.support.xla_flags import xla_flags


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_by_hand(protocol):
    result = evaluate(by_hand(), protocol=protocol, mesh=one_device())
    # Labelled pixels: red 70 + 33, green 50, blue 50 + 12. Found: red 103, green 50, blue none.
    np.testing.assert_array_equal(result.scores.pixels, [103, 50, 62, 0])
    iou = [100 * 103 / (103 + 12), 100 * 50 / (50 + 50), 0]
    np.testing.assert_allclose(result.scores.iou, [*iou, np.nan])
    assert result.scores.miou == pytest.approx(np.mean(iou))
    assert result.scores.pacc == pytest.approx(100 * 153 / 215)
    assert result.report["incomplete"] == []


def test_seen_and_unseen():
    training = Vocabulary(("Red", "blue, navy", "tree"))
    result = evaluate(by_hand(), vocabulary=training, mesh=one_device())
    np.testing.assert_array_equal(result.seen, [True, False, True, False])
    assert result.miou_seen == pytest.approx(100 * 103 / 115 / 2)
    assert result.miou_unseen == pytest.approx(50)  # green; sky does not occur
    without = evaluate(by_hand(), mesh=one_device())
    assert np.isnan([without.miou_seen, without.miou_unseen]).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_and_devices_change_nothing(batch_size, devices):
    source = random_source()
    expected = np.zeros((4, 4), np.int64)
    for color, label in zip(source.colors, source.labels, strict=True):
        expected[color] += np.bincount(label[label >= 0], minlength=4)
    result = evaluate(
        source,
        batch_size=batch_size,
        mesh=make_mesh(jax.devices()[:devices]),
    )
    np.testing.assert_array_equal(result.scores.pixels, expected.sum(axis=0))
    right = np.diagonal(expected)
    np.testing.assert_allclose(result.scores.iou, 100 * right / (expected.sum(axis=0) + expected.sum(axis=1) - right))
    assert result.report["data"]["images"] == 7


def test_windows_over_several_devices():
    scores = [
        evaluate(random_source(5), protocol="cat_seg", batch_size=2, mesh=mesh).scores
        for mesh in (one_device(), make_mesh(jax.devices()[:2]))
    ]
    np.testing.assert_array_equal(scores[0].iou, scores[1].iou)


def test_unreadable_files_are_named_and_the_rest_is_scored():
    source = by_hand()
    source.colors[1] = None
    result = evaluate(source, batch_size=2, mesh=one_device())
    np.testing.assert_array_equal(result.scores.pixels, [103, 0, 12, 0])
    assert result.report["incomplete"] == ["1 of 4 images could not be read"]
    assert result.report["failed"] == [{"name": "image_1.png", "cause": "image_1.png: truncated file"}]
    assert result.report["data"]["images"] == 3
    assert "INCOMPLETE: 1 of 4 images could not be read" in result.summary()


def test_every_file_unreadable_gives_no_score():
    source = ListSource([None, None], [None, None])
    result = evaluate(source, mesh=one_device())
    assert np.isnan(result.scores.miou)
    assert result.to_dict()["scores"]["mIoU"] is None


def test_limit_takes_the_first_images_and_says_so():
    result = evaluate(by_hand(), limit=1, mesh=one_device())
    np.testing.assert_array_equal(result.scores.pixels, [70, 0, 0, 0])
    assert result.report["incomplete"] == ["limited to the first 1 of 4 images"]


def test_results_file(tmp_path):
    training = Vocabulary(("red", "blue"))
    result = evaluate(
        by_hand(),
        class_pooling=2,
        path="runs/1",
        step=800,
        vocabulary=training,
        mesh=one_device(),
    )
    path = tmp_path / "new" / "results.json"
    result.write_results(path)
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    content = json.loads(path.read_text())
    assert content["scores"]["mIoU"] == pytest.approx(result.scores.miou)
    names = {"mIoU", "fwIoU", "mACC", "pACC", "mIoU_seen", "mIoU_unseen", "mIoU_labelled_or_predicted"}
    assert set(content["scores"]) == names
    assert set(content["absent_classes"]) == {"mIoU", "mIoU_labelled_or_predicted"}
    assert (content["protocol"], content["class_pooling"]) == ("whole", 2)
    assert content["vocabulary"]["sha256"] == Vocabulary(COLORS).sha256
    assert content["vocabulary"]["templates"] == ["A photo of a {} in the scene"]
    assert content["training_vocabulary"]["sha256"] == training.sha256
    assert content["checkpoint"] == {"path": "runs/1", "step": 800, "sha256": parameters.params_sha256(PARAMS)}
    assert content["data"] == {"fingerprint": {"images": 4}, "images": 4, "images_in_source": 4, "problems": []}
    assert (content["quick"], content["scored_vocabulary"], content["predictions"]) == (False, None, None)
    again = results.Evaluation.from_dict(content, Vocabulary(COLORS))
    assert again.to_dict() == content
    assert again.summary() == result.summary()
    assert (content["incomplete"], content["failed"]) == ([], [])
    assert content["versions"]["jax"] == jax.__version__
    assert content["hardware"]["platform"] == "cpu"
    assert content["model"]["adaptation"] == "none"
    assert content["seconds"] > 0
    assert content["date"].endswith("+00:00")
    found = {"IoU": 50.0, "accuracy": 100.0, "pixels": 50, "predicted": 100}
    assert content["classes"][1] == {"name": "green", "seen": False} | found
    sky = {"name": "sky", "IoU": None, "accuracy": None, "pixels": 0, "predicted": 0, "seen": False}
    assert content["classes"][3] == sky


def test_summary_names_what_the_score_depends_on():
    result = evaluate(by_hand(), class_pooling=2, mesh=one_device())
    assert result.summary().startswith(f"mIoU {result.scores.miou:.2f}, fwIoU ")
    sha256 = Vocabulary(COLORS).sha256[:8]
    for part in ("protocol whole", "class pooling 2x2", "4 images", f"4 classes (vocabulary {sha256})"):
        assert part in result.summary()


def test_classes_that_are_predicted_and_never_labelled_are_named_with_the_other_mean():
    labels = [filled(10, 7, 0), filled(20, 5, 2)]
    result = evaluate(ListSource([0, 1], labels), mesh=one_device())  # red found, blue taken for green
    assert (result.scores.miou, result.scores.miou_labelled_or_predicted) == pytest.approx((50, 100 / 3))
    said = result.summary().splitlines()[1]
    assert said.startswith("absent classes: 1 of the classes are predicted but occur in no label; this mIoU leaves")
    assert said.endswith("it is 33.33")
    assert "absent classes" not in evaluate(by_hand(), mesh=one_device()).summary()


def test_summary_of_a_vocabulary_that_was_never_seen_has_a_dash():
    other = Vocabulary(("river",))
    result = evaluate(by_hand(), vocabulary=other, mesh=one_device())
    assert result.summary().startswith(
        f"mIoU {result.scores.miou:.2f} (seen -, unseen {result.scores.miou:.2f}), fwIoU "
    )


def test_pictures_of_random_images_the_worst_and_the_best():
    result = evaluate(by_hand(), pictures=3, mesh=one_device())
    # mIoU by image: 100, 50 (blue under green), 100 (red on what is labelled), 0; of equals the first is the best.
    shown = result.report["pictures"]
    assert {label: shown[label] for label in ("worst_1", "best_1")} == {
        "worst_1": "image_3.png",
        "best_1": "image_0.png",
    }
    assert shown["random_1"] in ("image_1.png", "image_2.png")
    assert [label for label, _ in result.pictures] == ["random_1", "worst_1", "best_1"]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for _, picture in result.pictures)
    few = evaluate(random_source(2), pictures=9, mesh=one_device())
    assert len(few.pictures) == 2


def test_pictures_alone_need_no_scores_and_no_hash(monkeypatch):
    source, read = random_source(5), []
    original = type(source).__getitem__
    monkeypatch.setattr(ListSource, "__getitem__", lambda self, i: read.append(i) or original(self, i))
    monkeypatch.setattr(parameters, "params_sha256", None)
    weights = score.Weights(ColorModel(), PARAMS)
    pictures = score.draw(weights, source, EvalConfig(pictures=3, batch_size=2), one_device(), num_threads=1)
    assert [label for label, _ in pictures] == ["random_1", "random_2", "random_3"]
    assert sorted(read) == [0, 1, 2]  # each once
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for _, picture in pictures)


def test_unreadable_images_are_not_pictured():
    source = random_source(5)
    source.colors[2] = source.colors[4] = None
    result = evaluate(source, pictures=5, mesh=one_device())
    assert sorted(result.report["pictures"].values()) == ["image_0.png", "image_1.png", "image_3.png"]


def merging(labels) -> ListSource:
    """Predicted: four colours; scored: red, and everything else."""
    source = ListSource([0, 1, 2], labels)
    source.merge_predictions, source.scored_names = np.array([0, 1, 1, 1], np.int32), ("red", "background")
    return source


def test_predictions_are_merged_into_the_scored_classes():
    source = merging([filled(10, 7, 0), filled(20, 5, 1, 0), filled(6, 11, 1)])
    training = Vocabulary(("red", "blue"))
    result = evaluate(source, vocabulary=training, mesh=one_device(), pictures=1)
    # Red: 70 of 120 found; background: 50 + 66 found, the 50 pixels of missed red besides.
    np.testing.assert_allclose(result.scores.iou, [100 * 70 / 120, 100 * 116 / 166])
    assert [row["name"] for row in result.to_dict()["classes"]] == ["red", "background"]
    # A background of several words is neither seen nor unseen.
    assert [row["seen"] for row in result.to_dict()["classes"]] == [True, None]
    assert np.isnan(result.miou_unseen)
    assert result.report["vocabulary"]["classes"] == 4
    assert result.report["scored_vocabulary"]["classes"] == 2


def test_a_merge_that_does_not_fit_is_refused():
    source = merging([filled(3, 5, 0)] * 3)
    source.merge_predictions = np.array([0, 1, 1], np.int32)
    with pytest.raises(ValueError, match=r"shape \[3\] and 2 different values; it must map each of 4 .* 2 scored ones"):
        evaluate(source, mesh=one_device())


def test_data_that_the_doctor_refuses():
    source = by_hand()
    source.doctor_problems = ("the labels are shifted by one",)
    with pytest.raises(DataProblem, match=r"  - the labels are shifted by one\n.*eval\.allow_bad_data"):
        evaluate(source, mesh=one_device())
    result = evaluate(source, mesh=one_device(), allow_bad_data=True)
    assert result.report["data"]["problems"] == ["the labels are shifted by one"]
    assert "BAD DATA: the labels are shifted by one" in result.summary()


def test_image_and_label_of_different_sizes_count_as_unreadable():
    source = by_hand()
    read = source.__getitem__

    class Wrong(ListSource):
        def __getitem__(self, index):
            example = read(index)
            return example if index else {**example, "label": example["label"][1:]}

    result = evaluate(Wrong(source.colors, source.labels), mesh=one_device())
    cause = "the image has shape [10, 7, 3] but its labels [9, 7]"
    assert result.report["failed"] == [{"name": "image_0.png", "cause": cause}]


def test_progress_has_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    lines = []
    evaluate(random_source(7), mesh=one_device(), log=lines.append)
    assert lines[0] == "evaluated 1 of 7 images"
    assert "evaluated 3 of 7 images, " in lines[2]
    assert "images/s" in lines[2]
    assert " s left" in lines[2]


def test_a_second_evaluation_traces_nothing():
    evaluate(by_hand(), mesh=one_device())
    before = dict(compiled.traces)
    evaluate(random_source(), {"scale": np.float32(3)}, mesh=one_device())
    assert dict(compiled.traces) == before


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="nothing to evaluate: the source holds no image"):
        evaluate(ListSource([], []))


def test_unknown_protocol():
    with pytest.raises(ValueError, match="unknown protocol 'sliding'; choose one of whole, cat_seg"):
        evaluate(by_hand(), protocol="sliding")


def test_labels_outside_the_vocabulary_name_the_file():
    source = ListSource([0, 0], [filled(5, 7, 0), filled(5, 7, 9)])
    with pytest.raises(DataProblem, match=r"image_1\.png: label value 9 is outside -1\.\.3 \(4 classes\)"):
        evaluate(source, mesh=one_device())


def test_parameter_hash_sees_names_types_shapes_and_values():
    values = np.arange(6, dtype=np.float32)
    tree = {"b": {"kernel": values}, "a": jnp.ones(())}
    same = {"a": np.ones((), np.float32), "b": {"kernel": jnp.asarray(values)}}
    assert parameters.params_sha256(tree) == parameters.params_sha256(same)
    for other in (
        {**tree, "a": jnp.zeros(())},
        {**tree, "b": {"bias": values}},
        {**tree, "b": {"kernel": values.reshape(2, 3)}},
        {**tree, "b": {"kernel": values.astype(np.float64)}},
        {**tree, "b": {"kernel": jnp.asarray(values, jnp.bfloat16)}},
    ):
        assert parameters.params_sha256(other) != parameters.params_sha256(tree)


@pytest.mark.slow
def test_two_processes_add_up(tmp_path):
    """Eleven images over two processes of two devices each; one file is broken, one batch is part empty.

    Both are interrupted, one of them before it has counted anything, and go on.
    """
    environment = {**os.environ, "XLA_FLAGS": xla_flags(2), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, __file__, str(tmp_path), str(free_port())]
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    written = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    source = random_source(11)
    source.colors[3] = None
    expected = evaluate(source, mesh=one_device()).to_dict()
    for content in written:
        for key in ("scores", "classes", "failed", "data", "checkpoint"):
            assert content[key] == expected[key]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["2", "0"]
    assert not list(tmp_path.glob("x.partial*"))


def _one_of_two_processes(folder: str, port: str, rank: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    whole, partial = random_source(11), pathlib.Path(folder) / "x.partial"
    whole.colors[3] = None
    source = Stopping({"0": 8, "1": 5}[rank], whole.colors, whole.labels)
    options = {"batch_size": 4, "num_threads": 1, "partial": partial}
    with pytest.raises(Interrupted):
        evaluate(source, **options)
    with np.load(f"{partial}.{rank}.npz") as file:
        (pathlib.Path(folder) / f"{rank}.txt").write_text(str(json.loads(file["tally"].item())["done"]))
    source.stop_at = None
    result = evaluate(source, **options)
    result.write_results(pathlib.Path(folder) / f"{rank}.json")


if __name__ == "__main__":
    _one_of_two_processes(*sys.argv[1:])
