"""Whole runs: continued, interrupted, refused, stopped by what goes wrong.

The model is a stand-in that compiles in a moment; `test_train_model.py` has the real one, `test_step.py` one step.
"""

import dataclasses
import itertools
import json
import os
import re
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ahs_seg_jax.checkpoints import manifest, pretrained, store
from ahs_seg_jax.data.scenes import ScenesSource, scenes_vocabulary
from ahs_seg_jax.devices import stopping
from ahs_seg_jax.errors import CheckpointError, CorruptExample, Ending, InputError
from ahs_seg_jax.evaluation import run, score
from ahs_seg_jax.models.architecture import TextTowerConfig
from ahs_seg_jax.training import resume, saving, train, workdir_lock
from ahs_seg_jax.training.monitor import NonFiniteLoss
from scripts import kill_test
from tests.support.small import small_model
from tests.support.training import after_batches, close, experiment


def test_data_that_an_evaluation_would_refuse_are_refused_at_the_start(tmp_path, monkeypatch):
    class Partial(ScenesSource):
        doctor_problems = ("3 images of val, the published set has 5,000",)

    monkeypatch.setattr(train, "open_source", lambda settings, split: Partial(settings.scenes, split))
    with pytest.raises(
        InputError, match=r"(?s)- 3 images of val, the published .* or set eval\.allow_bad_data to True"
    ):
        train.train(experiment(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- whole runs


def arrays(workdir):
    return store.load_params(workdir)[0]


def steps_in(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def finished(stand_in, tmp_path_factory):
    """An uninterrupted run of six steps: its workdir. Read only."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(experiment(), workdir) is Ending.FINISHED
    return workdir


def test_run_leaves_checkpoints_results_pictures_and_curves(stand_in, tmp_path, capsys):
    finished = tmp_path / "run"
    assert train.train(experiment(), finished) is Ending.FINISHED
    printed = capsys.readouterr().out
    assert "step 6/6  total" in printed
    classes = len(scenes_vocabulary("train"))
    assert "test: 4 x cpu in 1 process(es) (mesh: data 4), batch 4 (1 a device), 13 training images, " in printed
    assert f"13 training images, {classes} classes, 6 steps" in printed
    assert steps_in(finished) == [4, 6]
    results = json.loads((finished / "results" / "scenes_val_000006.json").read_text())
    assert results["protocol"] == "whole"
    assert results["checkpoint"]["step"] == 6
    assert (finished / "pictures" / "val_0_000006.png").is_file()
    assert list((finished / "tensorboard").iterdir())
    meta = store.read_meta(finished)
    assert meta["step"] == 6
    assert manifest.stored_vocabulary(meta) == scenes_vocabulary("train")


def test_mixture_of_recipes_is_said_at_the_start_and_allowed(stand_in, tmp_path, capsys):
    model = small_model(adaptation="none", mh_fpn=False, dc_hsp=False)
    config = dataclasses.replace(experiment(model, steps=1, finetune="attention", clip_norm=1.0), init="random")
    assert train.train(config, tmp_path) is Ending.FINISHED
    lines = [line for line in capsys.readouterr().out.splitlines() if "published recipe" in line]
    assert len(lines) == 1
    assert lines[0].startswith("differs from the published recipe catseg in: ")
    assert "train.clip_norm 1.0 (published 0.01)" in lines[0]


@pytest.mark.parametrize(
    ("number", "ending"), [(signal.SIGINT, Ending.INTERRUPTED), (signal.SIGTERM, Ending.PREEMPTED)]
)
def test_stopped_run_continues_exactly(finished, tmp_path, capsys, monkeypatch, number, ending):
    with monkeypatch.context() as patch:
        after_batches(patch, 2, lambda: os.kill(os.getpid(), number))
        assert train.train(experiment(checkpoint_every=100), tmp_path / "parts") is ending
    assert "stopped at step 3; the same command with the same --workdir continues" in capsys.readouterr().out
    assert steps_in(tmp_path / "parts") == [3]
    assert train.train(experiment(checkpoint_every=100), tmp_path / "parts") is Ending.FINISHED
    assert "continuing after step 3 of 6" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "parts"), arrays(finished))


def test_resumed_run_equals_the_whole_one_bit_for_bit(stand_in, tmp_path, capsys, monkeypatch):
    config = experiment(ema_decay=0.75, on_nonfinite="skip")
    train.train(config, tmp_path / "whole")
    whole = re.findall(r"(?m)^step \d/6  total \S+", capsys.readouterr().out)
    with monkeypatch.context() as patch:
        after_batches(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train.train(config, tmp_path / "parts")
    train.train(config, tmp_path / "parts")
    assert re.findall(r"(?m)^step \d/6  total \S+", capsys.readouterr().out) == whole
    one, two = (kill_test.state(tmp_path / name, 6) for name in ("whole", "parts"))
    assert {name.split("/")[0] for name in one} == {"step", "trainable", "opt_state", "ema", "skipped"}
    assert set(one) == set(two)
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes(), name


def test_signal_handlers_are_put_back(stand_in, tmp_path):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    train.train(experiment(steps=1), tmp_path)
    assert handlers() == before


def test_stop_during_evaluation_saves_and_the_next_run_evaluates(stand_in, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(score, "evaluate", interrupted)
        assert train.train(experiment(steps=2), tmp_path) is Ending.INTERRUPTED
    assert steps_in(tmp_path) == [2]
    assert train.train(experiment(steps=2), tmp_path) is Ending.FINISHED
    assert (tmp_path / "results" / "scenes_val_000002.json").is_file()


def failing_saves(patch, step: int, times: int):
    """The first `times` saves of this step fail as on a full disk."""
    original, tried = ocp.CheckpointManager.save, []

    def save(self, number, *args, **kwargs):
        if number == step and len(tried) < times:
            tried.append(number)
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
        return original(self, number, *args, **kwargs)

    patch.setattr(ocp.CheckpointManager, "save", save)
    return tried


@pytest.mark.parametrize(
    ("times", "every", "steps", "said"),
    [
        (1, 4, [2, 3], "stopped at step 3; the same command with the same --workdir continues from there"),
        (
            2,
            4,
            [2],
            "stopped at step 3; the newest checkpoint is of step 2: .* continues from there and repeats 1 step\n",
        ),
        (2, 100, [], "stopped at step 3, and there is no checkpoint; .* starts anew"),
    ],
)
def test_preempted_run_whose_last_save_fails_tries_again_and_can_be_started_again(
    finished, tmp_path, capsys, monkeypatch, times, every, steps, said
):
    config = experiment(checkpoint_every=every)
    with monkeypatch.context() as patch:
        tried = failing_saves(patch, 3, times)
        after_batches(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train.train(config, tmp_path) is Ending.PREEMPTED
    assert tried == [3] * times
    printed = capsys.readouterr().out
    assert re.search(said, printed), printed
    assert ("WARNING: the last checkpoint could not be saved" in printed) == (times > 1)
    assert steps_in(tmp_path) == steps
    assert train.train(config, tmp_path) is Ending.FINISHED
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path), arrays(finished))


def test_run_at_its_end_whose_last_save_fails_is_an_error(stand_in, tmp_path, monkeypatch):
    failing_saves(monkeypatch, 2, times=3)  # at its interval, as the last one, and once more
    with pytest.raises(
        CheckpointError, match=r"could not be saved .* the disk is full .*; there is no earlier .*again"
    ):
        train.train(experiment(steps=2), tmp_path)


def test_stopping_before_the_first_step_saves_nothing(stand_in, tmp_path, monkeypatch):
    class Stopped(stopping.StopRequest):
        def __enter__(self):
            self.received = True
            return super().__enter__()

    monkeypatch.setattr(stopping, "StopRequest", Stopped)
    assert train.train(experiment(), tmp_path) is Ending.PREEMPTED
    assert steps_in(tmp_path) == []


def test_what_a_stopped_run_says():
    assert resume.stopped(9, [2, 9]).startswith("stopped at step 9; the same command")
    assert resume.stopped(9, [2, 6]).endswith("continues from there and repeats 3 steps")


def test_second_signal_stops_at_once():
    with stopping.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_workdir_of_another_configuration_is_refused_by_field(finished):
    other = dataclasses.replace(experiment(batch_size=8, log_every=3), seed=1)
    with pytest.raises(resume.WorkdirMismatch) as caught:
        train.train(other, finished)
    assert "stopped at step 6" in str(caught.value)
    assert "seed: stored 0, now 1\n  - train.batch_size: stored 4, now 8\n" in str(caught.value)
    assert "log_every" not in str(caught.value)


def test_workdir_of_other_data_is_refused():
    config = experiment()
    source = ScenesSource(config.data.scenes, "train")
    meta = json.loads(json.dumps(resume.checkpoint_meta(config, source, 3)))
    resume.check_workdir(meta, config, source)
    key = sorted(meta["data"])[0]
    meta["data"][key] = "something else"
    with pytest.raises(resume.WorkdirMismatch, match=f"the training data's {key}: stored 'something else', now"):
        resume.check_workdir(meta, config, source)


def test_checkpoint_of_a_version_that_stored_its_next_batch_is_continued():
    config = experiment()
    source = ScenesSource(config.data.scenes, "train")
    meta = json.loads(json.dumps(resume.checkpoint_meta(config, source, 3) | {"next_batch": 3}))
    resume.check_workdir(meta, config, source)
    assert manifest.stored_vocabulary(meta) == source.vocabulary


def test_workdir_of_a_version_with_other_fields_is_refused():
    config = experiment()
    source = ScenesSource(config.data.scenes, "train")
    meta = json.loads(json.dumps(resume.checkpoint_meta(config, source, 3)))
    meta["config"]["train"]["gone"] = 1
    with pytest.raises(resume.WorkdirMismatch, match=r"train.gone = 1 is not a field"):
        resume.check_workdir(meta, config, source)


def test_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(stand_in, tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"step \d+ is not finite: total .*gradient norm .*its batch: scene \d+, scene"
    ):
        train.train(experiment(learning_rate=1e30, checkpoint_every=1), tmp_path)
    # The parameters after step 1 were the last whose loss was still looked at and good.
    assert steps_in(tmp_path) == [1]


def test_skipped_updates_are_named_counted_and_limited(stand_in, tmp_path, capsys):
    config = experiment(learning_rate=1e30, checkpoint_every=1, on_nonfinite="skip", nonfinite_limit=2)
    with pytest.raises(
        NonFiniteLoss, match=r"3 updates were left out, more than train.nonfinite_limit = 2\. The check"
    ):
        train.train(config, tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"WARNING: step \d is not finite: total .*its batch: scene \d+.* left out: 1 so far", printed)
    assert "left out: 2 so far, train.nonfinite_limit = 2" in printed


def test_saves_begin_every_half_of_the_steps_that_may_be_lost():
    assert [saving.save_spacing(steps) for steps in (0, 1, 2, 3, 4, 7, 1000)] == [0, 1, 1, 1, 2, 3, 500]


def test_nothing_is_lost_where_no_step_may_be(stand_in, tmp_path, monkeypatch):
    complete = []

    def look():
        complete.append([int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()])

    after_batches(monkeypatch, 2, look)
    train.train(experiment(checkpoint_every=1, keep=9, steps=3), tmp_path)
    assert sorted(complete[0]) == [1, 2]  # step 3 has not begun


def test_save_timer():
    now = [100.0]
    timer = saving.SaveTimer(1.0, agree_every=7, clock=lambda: now[0])
    now[0] = 129.0
    assert not timer.due(3)
    now[0] = 130.0
    assert timer.due(3)
    timer.saved()
    assert not timer.due(4)
    assert not saving.SaveTimer(0.0, agree_every=7, clock=lambda: next(itertools.count(0.0, 1e9))).due(5)


def test_saves_by_the_clock(stand_in, tmp_path):
    train.train(experiment(checkpoint_every=0, checkpoint_minutes=1e-6, keep=9, steps=3), tmp_path)
    assert steps_in(tmp_path) == [1, 2, 3]


def test_second_run_in_the_workdir_is_refused(stand_in, tmp_path):
    with workdir_lock.WorkdirLock(tmp_path), pytest.raises(InputError, match="is being trained in by process"):
        train.train(experiment(), tmp_path)


def test_corrupt_image_saves_what_was_done_and_is_named(stand_in, tmp_path, monkeypatch):
    def corrupt():
        raise CorruptExample("street_5.png cannot be read: truncated")

    with monkeypatch.context() as patch:
        after_batches(patch, 3, corrupt)
        with pytest.raises(CorruptExample, match=r"street_5.png cannot be read"):
            train.train(experiment(checkpoint_every=100), tmp_path)
    assert steps_in(tmp_path) == [3]


def test_batch_that_does_not_fit_the_devices_is_refused_first(tmp_path):
    with pytest.raises(InputError, match=r"train.batch_size is 3, .*set it to 4$"):
        train.train(experiment(batch_size=3), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_class_name_too_long_for_the_context_is_refused_first(tmp_path):
    model = small_model(text=TextTowerConfig(layers=1, width=16, heads=2, context=8))
    with pytest.raises(InputError, match="the text context holds 8 tokens"):
        train.train(experiment(model), tmp_path)


def test_prompts_must_match_the_model(tmp_path):
    model = small_model()
    model = model.replace(aggregator=dataclasses.replace(model.aggregator, prompts=80))
    with pytest.raises(InputError, match=r"model.aggregator.prompts is 80, but .* makes 1 prompt"):
        train.train(experiment(model), tmp_path)


# ----------------------------------------------------------------------------------------------- evaluation alone


def test_evaluation_alone_gives_the_scores_of_the_run(finished, capsys):
    assert run.evaluate_benchmarks(dataclasses.replace(experiment(), mode="eval"), finished) is Ending.FINISHED
    written = json.loads((finished / "results" / "scenes_val.json").read_text())
    trained = json.loads((finished / "results" / "scenes_val_000006.json").read_text())
    assert written["scores"] == trained["scores"]
    assert written["checkpoint"]["sha256"] == trained["checkpoint"]["sha256"]
    assert written["scores"]["mIoU_seen"] is not None
    assert "results: " in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "used"), [((), ["{}"]), (("the {}",), ["the {}"])])
def test_evaluation_uses_the_prompts_of_the_training_unless_told_otherwise(
    finished, tmp_path, monkeypatch, asked, used
):
    meta = store.read_meta(finished)
    meta["vocabulary"]["templates"] = ["{}"]
    monkeypatch.setattr(pretrained, "training_meta", lambda path: meta)
    config = experiment()
    config = dataclasses.replace(
        config, mode="eval", init=str(finished), data=dataclasses.replace(config.data, templates=asked)
    )
    run.evaluate_benchmarks(config, tmp_path)
    report = json.loads((tmp_path / "results" / "scenes_val.json").read_text())
    assert report["vocabulary"]["templates"] == used


def test_evaluation_of_a_named_step_in_another_workdir(finished, tmp_path):
    config = dataclasses.replace(experiment(), mode="eval", init=str(finished / "checkpoints" / "4"))
    run.evaluate_benchmarks(config, tmp_path / "elsewhere")
    assert json.loads((tmp_path / "elsewhere" / "results" / "scenes_val.json").read_text())["checkpoint"]["step"] == 4


def test_evaluation_without_a_checkpoint_is_refused(stand_in, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        run.evaluate_benchmarks(dataclasses.replace(experiment(), mode="eval"), tmp_path)


def test_training_from_a_finished_run(finished, tmp_path):
    config = dataclasses.replace(experiment(steps=1, learning_rate=1e-30), init=str(finished))
    train.train(config, tmp_path / "next")
    close(arrays(tmp_path / "next"), arrays(finished))


def test_init_that_does_not_exist_is_refused(stand_in, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train.train(dataclasses.replace(experiment(), init="nowhere.pth"), tmp_path)
