"""Evaluation of a checkpoint on a list of benchmarks: results files, what is not done twice, refusals, verdicts."""

import dataclasses
import functools
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.config import RANDOM_INIT, DataConfig, EvalConfig, Experiment
from ahs_seg_jax.errors import Ending, InputError
from ahs_seg_jax.evaluation import expected, images, metrics, run
from ahs_seg_jax.models.architecture import tiny
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.color_model import ListSource, filled, random_source


@functools.cache
def load(described: Experiment, workdir: str, load=run.load_for) -> run.Weights:
    """Weights by the seed alone, made once."""
    return load(described, workdir)


@pytest.fixture
def sources(stand_in, monkeypatch):
    """Two benchmarks in the place of all others, and the stand-in in the model's place."""
    found = {"first": random_source(5), "second": ListSource([0, 1], [filled(4, 6, 0), filled(6, 4, 1, 2)])}

    def open_source(settings, split):
        if settings.name not in found:
            raise ValueError(f"data.name is {settings.name!r}; choose one of {', '.join(found)}")
        assert split == "val"
        return found[settings.name]

    monkeypatch.setattr(run, "open_source", open_source)
    monkeypatch.setattr(run, "load_for", lambda described, _: load(experiment(seed=described.seed), ""))
    return found


def experiment(seed: int = 0, **changes) -> Experiment:
    settings = {"benchmarks": ("first", "second"), "pictures": 0} | changes
    return Experiment(
        seed=seed,
        init=RANDOM_INIT,
        mode="eval",
        model=tiny().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
        data=DataConfig(name="second"),
        eval=EvalConfig(**settings),
    )


def read(tmp_path, name: str) -> dict:
    return json.loads((tmp_path / "results" / f"{name}.json").read_text())


def test_each_benchmark_gets_its_results(sources, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(run, "load_for", lambda *args, load=run.load_for: loaded.append(1) or load(*args))
    assert run.evaluate_benchmarks(experiment(pictures=2), tmp_path) == Ending.FINISHED
    assert len(loaded) == 1
    contents = [read(tmp_path, name) for name in ("first_val", "second_val")]
    assert [content["benchmark"] for content in contents] == ["first", "second"]
    assert [content["data"]["images"] for content in contents] == [5, 2]
    assert contents[0]["checkpoint"] == contents[1]["checkpoint"]
    assert contents[0]["expected"]["verdict"] == "unknown"
    pictures = {path.name for path in (tmp_path / "results").glob("*.png")}
    assert pictures == {f"{name}_val_random_{k}.png" for name in ("first", "second") for k in (1, 2)}


def test_without_benchmarks_the_data_of_the_run_are_scored(sources, tmp_path):
    assert run.evaluate_benchmarks(experiment(benchmarks=()), tmp_path) == Ending.FINISHED
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert files == ["second_val.json", "second_val_confusion.npz"]


def test_the_stored_confusion_matrix_gives_every_score(sources, tmp_path):
    run.evaluate_benchmarks(experiment(benchmarks=("first",)), tmp_path)
    stored = np.load(tmp_path / "results" / "first_val_confusion.npz")
    assert stored["class_names"].tolist() == ["red", "green", "blue", "sky"]
    content, again = read(tmp_path, "first_val"), metrics.scores(stored["confusion"])
    assert content["scores"]["mIoU"] == again.miou
    assert content["scores"]["mIoU_labelled_or_predicted"] == again.miou_labelled_or_predicted
    assert [row["predicted"] for row in content["classes"]] == again.predicted.tolist()


def test_protocol_and_quick_mode_are_in_the_name(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "QUICK_IMAGES", 2)
    settings = {"benchmarks": ("first",), "protocol": "cat_seg", "quick": True}
    run.evaluate_benchmarks(experiment(**settings), tmp_path)
    content = read(tmp_path, "first_val_cat_seg_quick")
    assert content["quick"] is True
    assert "quick mode: 2 of 5 images" in content["incomplete"][0]


def test_finished_results_are_not_computed_again(sources, tmp_path, capsys):
    run.evaluate_benchmarks(experiment(), tmp_path)
    before = read(tmp_path, "first_val")
    sources["first"].colors[0] = None  # would be noticed
    run.evaluate_benchmarks(experiment(), tmp_path)
    assert "first: evaluated already, on 20" in capsys.readouterr().out
    assert read(tmp_path, "first_val") == before
    run.evaluate_benchmarks(experiment(again=True), tmp_path)
    assert read(tmp_path, "first_val")["data"]["images"] == 4
    # Files that could not be read may have been repaired: such results are always computed again.
    sources["first"].colors[0] = 1
    run.evaluate_benchmarks(experiment(), tmp_path)
    assert read(tmp_path, "first_val")["data"]["images"] == 5


@pytest.mark.parametrize("change", ["weights", "class_pooling", "damaged"])
def test_results_of_another_evaluation_are_replaced(sources, tmp_path, change, capsys):
    run.evaluate_benchmarks(experiment(), tmp_path)
    other = experiment()
    if change == "weights":
        other = experiment(seed=1)
    elif change == "class_pooling":
        other = experiment(class_pooling=2)
    else:
        (tmp_path / "results" / "first_val.json").write_text("{}")
    capsys.readouterr()
    run.evaluate_benchmarks(other, tmp_path)
    printed = capsys.readouterr().out
    assert "first: evaluated already" not in printed
    assert ("evaluating again" in printed) == (change == "damaged")
    assert read(tmp_path, "first_val")["class_pooling"] == other.eval.class_pooling


def test_everything_wrong_is_named_before_the_weights_are_read(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_for", None)
    sources["first"].doctor_problems = ("1 of 5 labels is missing",)
    wrong = experiment(benchmarks=("first", "third", "second"), expected="catseg")
    with pytest.raises(InputError) as caught:
        run.evaluate_benchmarks(wrong, tmp_path)
    for words in (
        "first: the data are not what they should be:\n  - 1 of 5 labels is missing",
        "third: data.name is 'third'; choose one of first, second",
        "eval.expected is 'catseg'; choose one of catseg_vitb16, catseg_vitl14",
    ):
        assert words in str(caught.value)
    assert "second:" not in str(caught.value)


def test_bad_data_may_be_allowed_and_the_results_say_so(sources, tmp_path):
    sources["first"].doctor_problems = ("1 of 5 labels is missing",)
    run.evaluate_benchmarks(experiment(benchmarks=("first",), allow_bad_data=True), tmp_path)
    assert read(tmp_path, "first_val")["data"]["problems"] == ["1 of 5 labels is missing"]


def test_labels_outside_the_vocabulary_are_a_users_mistake(sources, tmp_path):
    sources["second"].labels[1] = filled(6, 4, 9)
    with pytest.raises(InputError, match=r"image_1\.png: label value 9 is outside -1\.\.3"):
        run.evaluate_benchmarks(experiment(), tmp_path)
    assert read(tmp_path, "first_val")["data"]["images"] == 5


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGINT, Ending.INTERRUPTED), (signal.SIGTERM, Ending.PREEMPTED)]
)
def test_interrupted_benchmarks_are_continued(sources, tmp_path, capsys, number, ending):
    whole = tmp_path / "whole"
    run.evaluate_benchmarks(experiment(), whole)
    stopping = sources["first"]
    read_image, stop = type(stopping).__getitem__, [True]

    class Stopping(type(stopping)):
        def __getitem__(self, index):
            if index == 4 and stop:
                stop.clear()
                os.kill(os.getpid(), number)
            return read_image(self, index)

    stopping.__class__ = Stopping
    several = experiment(batch_size=1)
    several = dataclasses.replace(several, data=dataclasses.replace(several.data, num_threads=1))
    assert run.evaluate_benchmarks(several, tmp_path) == ending
    assert "the same command continues" in capsys.readouterr().out
    assert not (tmp_path / "results" / "first_val.json").exists()
    assert run.evaluate_benchmarks(several, tmp_path) == Ending.FINISHED
    for name in ("first_val", "second_val"):
        assert read(tmp_path, name)["classes"] == read(whole, name)["classes"]
    assert not list((tmp_path / "results").glob("*.partial*"))


def test_predictions_are_saved_and_asked_for_again(sources, tmp_path):
    run.evaluate_benchmarks(experiment(benchmarks=("second",)), tmp_path)
    run.evaluate_benchmarks(experiment(benchmarks=("second",), save_predictions="png"), tmp_path)
    folder = tmp_path / "results" / "second_val_predictions"
    assert read(tmp_path, "second_val")["predictions"] == {"kind": "png", "path": str(folder)}
    assert np.asarray(Image.open(folder / "image_1.png")).shape == (6, 4)
    assert (folder / "classes.txt").read_text().splitlines() == ["red", "green", "blue", "sky"]


def test_verdict_on_a_known_benchmark(sources, tmp_path, monkeypatch, capsys):
    facts = {**expected.table()["checkpoints"]["catseg_vitb16"], "scores": {"second": 99.0}, "protocol": "whole"}
    table = expected.table() | {"checkpoints": {"mine": facts}}
    monkeypatch.setattr(expected, "table", lambda: table)
    run.evaluate_benchmarks(experiment(benchmarks=("second",), expected="mine"), tmp_path)
    content = read(tmp_path, "second_val")
    assert content["expected"]["verdict"] == "differs"
    assert content["expected"]["difference"] == pytest.approx(content["scores"]["mIoU"] - 99.0, abs=0.01)
    assert "expected score: differs by -" in capsys.readouterr().out


def test_names_of_the_classes_make_the_prompts_of_the_training(sources, tmp_path, monkeypatch):
    known = Vocabulary(("red", "sky"), templates=("{}",))
    load = run.load_for
    monkeypatch.setattr(run, "load_for", lambda *args: dataclasses.replace(load(*args), vocabulary=known))
    run.evaluate_benchmarks(experiment(), tmp_path)
    content = read(tmp_path, "first_val")
    assert content["vocabulary"]["templates"] == ["{}"]
    assert [row["seen"] for row in content["classes"]] == [True, False, False, True]


class Reds:
    """Labels everything with a class, by its index."""

    def __init__(self, index: int):
        self.index = index

    def described(self):
        return {"protocol": "reds", "index": self.index}

    def __call__(self, image):
        return np.full(image.shape[:2], self.index, np.int32)


def test_something_that_labels_image_by_image_is_scored_with_weights_of_its_own_for_each_benchmark(sources, tmp_path):
    base, made = load(experiment(), ""), []

    def weights_of(name, source):
        made.append((name, len(source)))
        return dataclasses.replace(base, labeller=Reds(len(made) - 1))

    data, settings = DataConfig(), EvalConfig(pictures=2)
    assert run.evaluate_all(("first", "second"), data, settings, tmp_path, lambda: weights_of) == Ending.FINISHED
    assert made == [("first", 5), ("second", 2)]
    content = read(tmp_path, "second_val_reds")
    assert (content["protocol"], content["method"]) == ("reds", {"protocol": "reds", "index": 1})
    assert [row["predicted"] for row in content["classes"]] == [0, 48, 0, 0]  # 24 red, 12 green and 12 blue pixels
    assert [row["pixels"] for row in content["classes"]] == [24, 12, 12, 0]
    assert content["scores"]["mIoU"] == pytest.approx(25 / 3)
    assert len(list((tmp_path / "results").glob("second_val_reds_random_*.png"))) == 2
    assert content["fingerprint"] != read(tmp_path, "first_val_reds")["fingerprint"]


def test_class_names_of_a_file(sources, tmp_path):
    names = tmp_path / "names"
    names.mkdir()
    (names / "first.txt").write_text("red\ngreen\nblue\nheaven\n")
    (names / "second.txt").write_text("red\ngreen\nblue\n")
    described = experiment(class_names=str(names))
    with pytest.raises(InputError, match=r"second: .*second\.txt names 3 classes where second has 4"):
        run.evaluate_benchmarks(described, tmp_path)
    run.evaluate_benchmarks(experiment(class_names=str(names), benchmarks=("first",)), tmp_path)
    content = read(tmp_path, "first_val")
    assert content["class_names"]["file"] == "first.txt"
    assert [row["name"] for row in content["classes"]] == ["red", "green", "blue", "heaven"]


def test_unknown_kind_of_predictions_is_refused():
    problems = experiment(save_predictions="jpg").problems()
    assert "eval.save_predictions is 'jpg'; choose one of (empty), png, coco" in problems
