"""The training step by equivalences, and whole runs: continued, interrupted, refused, stopped by what goes wrong.

With a stand-in for the model, which compiles in a moment; `test_train_model.py` has the real one.
"""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax import initialise, parallel, resume, scoring, train
from ahs_seg_jax.checkpoints import pretrained, store
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, InputError, TrainConfig
from ahs_seg_jax.data.scenes import ScenesConfig, ScenesSource, scenes_vocabulary
from ahs_seg_jax.data.sources import CorruptExample
from ahs_seg_jax.data.transforms import AugmentConfig
from ahs_seg_jax.models.architecture import AggregatorConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.monitor import NonFiniteLoss
from tests.standin import StandIn

CROP, CLASSES, LENGTH = 24, 5, 8


def small_model(**changes) -> ModelConfig:
    """Every part of the model, as small as it goes."""
    model = ModelConfig(
        image=ImageTowerConfig(layers=3, width=16, heads=2, patch_size=4, crop=CROP, pretrained_grid=6),
        text=TextTowerConfig(layers=1, width=16, heads=2, context=32),
        embed_dim=16,
        block_size=8,
        guidance_taps=(0, 1),
        mh_fpn_taps=(0, 1, 2),
        dc_hsp_rank=3,
        aggregator=AggregatorConfig(
            hidden=8,
            layers=1,
            heads=2,
            window=6,
            appearance_guidance=4,
            text_guidance=4,
            decoder=(16, 16),
            decoder_guidance=(4, 4),
            guidance_up=(8, 8),
            pad_len=8,
        ),
    )
    return model.replace(**changes)


def experiment(model: ModelConfig | None = None, **changes) -> Experiment:
    settings = {"steps": 6, "batch_size": 4, "finetune": "scratch", "learning_rate": 1e-2, "clip_multiplier": 1.0}
    settings |= {"log_every": 1, "checkpoint_every": 2, "eval_every": 0, "picture_every": 0} | changes
    return Experiment(
        name="test",
        model=model or small_model(adaptation="none"),
        data=DataConfig(scenes=ScenesConfig(size=32, train_images=13, val_images=3), augment=AugmentConfig(flip=False)),
        train=TrainConfig(**settings),
        eval=EvalConfig(batch_size=4, limit=2, pictures=1),
    )


def batch(size: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, CROP, CROP, 3), np.uint8),
        "label": rng.integers(-1, CLASSES, (size, CROP, CROP)).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
    }


def tokens() -> np.ndarray:
    rows = np.zeros((CLASSES, 1, LENGTH), np.int32)
    rows[:, 0, :4] = [[49406, 320 + 7 * row, 530 + row, 49407] for row in range(CLASSES)]
    return rows


def run_steps(config: Experiment, steps: int = 2, devices=None, data=None, pairs=None):
    """(state, metrics of each step, compiled programs) from fresh parameters."""
    mesh = parallel.make_mesh(devices)
    copied = parallel.replicated(mesh)
    step = jax.jit(train.make_train_step(config, pairs), donate_argnums=0, out_shardings=copied)
    params, _ = initialise.starting_params(config, mesh)
    state = jax.jit(functools.partial(train.create_state, train=config.train), out_shardings=copied)(params)
    words = parallel.put_replicated(tokens(), mesh)
    history = []
    for _ in range(steps):
        state, metrics = step(state, parallel.put_batch(data or batch(), mesh), words)
        history.append({name: np.asarray(value) for name, value in metrics.items()})
    return state, history, step._cache_size()


@pytest.fixture(scope="module")
def stand_in():
    """Puts the stand-in in the model's place."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (initialise, scoring, train):
            patch.setattr(module, "AHSSeg", StandIn)
        yield


# ------------------------------------------------------------------------------------------------------ one step


def test_loss_falls_and_the_step_is_traced_once(stand_in):
    before = train.traces["train_step"]
    state, history, programs = run_steps(experiment(), steps=3)
    assert int(state.step) == 3
    assert history[2]["loss/total"] < history[0]["loss/total"]
    assert (train.traces["train_step"] - before, programs) == (1, 1)


def test_rates_follow_the_schedule(stand_in):
    _, history, _ = run_steps(experiment(steps=2, clip_multiplier=0.5))
    np.testing.assert_allclose([metrics["learning_rate/base"] for metrics in history], [1e-2, 5e-3], rtol=1e-6)
    np.testing.assert_allclose([metrics["learning_rate/clip"] for metrics in history], [5e-3, 2.5e-3], rtol=1e-6)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *jax.device_get((a, b)))


def test_one_device_equals_several(stand_in):
    config = experiment(small_model(adaptation="none", dc_hsp=False))
    several, history, _ = run_steps(config)
    single, alone, _ = run_steps(config, devices=jax.devices()[:1])
    close((several.trainable, history), (single.trainable, alone))


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulation_equals_the_whole_batch(stand_in, devices):
    config = experiment(small_model(adaptation="none", dc_hsp=False))
    whole, history, _ = run_steps(config, devices=jax.devices()[:1])
    parts, split, _ = run_steps(
        dataclasses.replace(config, train=dataclasses.replace(config.train, accumulation=2)),
        devices=jax.devices()[:devices],
    )
    close((whole.trainable, history), (parts.trainable, split))


def test_split_batch_is_strided_so_that_images_stay_on_their_device():
    parts = train._split_batch({"index": jnp.arange(12)}, 3)["index"]
    # Two devices hold 0..5 and 6..11: every micro-batch has two of either.
    assert parts.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_dropout_depends_on_the_step(stand_in):
    _, history, _ = run_steps(experiment(learning_rate=1e-30), steps=2)
    assert history[0]["loss/total"] != history[1]["loss/total"]


def test_ema_follows_and_is_what_is_evaluated(stand_in):
    config = experiment(ema_decay=0.75)
    start = initialise.starting_params(config, parallel.make_mesh())[0]["aggregator"]["kernel"]
    state, _, _ = run_steps(config, steps=1)
    learned = state.trainable["aggregator"]["kernel"]
    np.testing.assert_allclose(state.params["aggregator"]["kernel"], 0.75 * start + 0.25 * learned, rtol=1e-5)


def test_frozen_parameters_stay_and_hold_no_state(stand_in):
    config = experiment(finetune="frozen")
    start = initialise.starting_params(config, parallel.make_mesh())[0]["clip"]
    state, _, _ = run_steps(config)
    assert set(state.trainable) == {"aggregator"}
    jax.tree.map(np.testing.assert_array_equal, state.frozen["clip"], start)
    assert sum(leaf.shape == (3, 16) for leaf in jax.tree.leaves(state.opt_state)) == 2


# ----------------------------------------------------------------------------------------------------- whole runs


def arrays(workdir):
    return store.load_params(workdir)[0]


def steps_in(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def after_batches(monkeypatch, count: int, action):
    """Calls `action` when the run asks for its batch number `count` (from 0)."""
    original = train.train_batches

    class Watched:
        def __init__(self, *args, **kwargs):
            self.inner = original(*args, **kwargs)
            self.skipped: dict[str, int] = {}

        def __next__(self):
            if self.inner.next_batch == count:
                action()
            return next(self.inner)

    monkeypatch.setattr(train, "train_batches", Watched)


@pytest.fixture(scope="module")
def finished(stand_in, tmp_path_factory):
    """An uninterrupted run of six steps: its workdir. Read only."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(experiment(), workdir)
    return workdir


def test_run_leaves_checkpoints_results_pictures_and_curves(stand_in, tmp_path, capsys):
    finished = tmp_path / "run"
    assert train.train(experiment(), finished)
    printed = capsys.readouterr().out
    assert "step 6/6  total" in printed
    classes = len(scenes_vocabulary("train"))
    assert f"test: 4 x cpu in 1 process(es), batch 4, 13 training images, {classes} classes, 6 steps" in printed
    assert steps_in(finished) == [4, 6]
    results = json.loads((finished / "results" / "scenes_val_000006.json").read_text())
    assert results["protocol"] == "whole"
    assert results["checkpoint"]["step"] == 6
    assert (finished / "pictures" / "val_0_000006.png").is_file()
    assert list((finished / "tensorboard").iterdir())
    meta = store.read_meta(finished)
    assert (meta["step"], meta["next_batch"]) == (6, 6)
    assert scoring.stored_vocabulary(meta) == scenes_vocabulary("train")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_continues_exactly(finished, tmp_path, capsys, monkeypatch, number):
    with monkeypatch.context() as patch:
        after_batches(patch, 2, lambda: os.kill(os.getpid(), number))
        assert not train.train(experiment(checkpoint_every=100), tmp_path / "parts")
    assert "stopped at step 3; the same command with the same --workdir continues" in capsys.readouterr().out
    assert steps_in(tmp_path / "parts") == [3]
    assert train.train(experiment(checkpoint_every=100), tmp_path / "parts")
    assert "continuing after step 3 of 6" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "parts"), arrays(finished))


def test_signal_handlers_are_put_back(finished):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stop_during_evaluation_saves_and_the_next_run_evaluates(stand_in, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score", interrupted)
        assert not train.train(experiment(steps=2), tmp_path)
    assert steps_in(tmp_path) == [2]
    assert train.train(experiment(steps=2), tmp_path)
    assert (tmp_path / "results" / "scenes_val_000002.json").is_file()


def test_second_signal_stops_at_once():
    with resume.StopRequest() as stop:
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
    result = scoring.evaluate_checkpoint(dataclasses.replace(experiment(), mode="eval"), finished)
    written = json.loads((finished / "results" / "scenes_val.json").read_text())
    trained = json.loads((finished / "results" / "scenes_val_000006.json").read_text())
    assert written["scores"] == trained["scores"]
    assert written["checkpoint"]["sha256"] == trained["checkpoint"]["sha256"]
    assert result.seen is not None
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
    report = scoring.evaluate_checkpoint(config, tmp_path).report
    assert report["vocabulary"]["templates"] == used


def test_evaluation_of_a_named_step_in_another_workdir(finished, tmp_path):
    config = dataclasses.replace(experiment(), mode="eval", init=str(finished / "checkpoints" / "4"))
    scoring.evaluate_checkpoint(config, tmp_path / "elsewhere")
    assert json.loads((tmp_path / "elsewhere" / "results" / "scenes_val.json").read_text())["checkpoint"]["step"] == 4


def test_evaluation_without_a_checkpoint_is_refused(stand_in, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        scoring.evaluate_checkpoint(dataclasses.replace(experiment(), mode="eval"), tmp_path)


def test_training_from_a_finished_run(finished, tmp_path):
    config = dataclasses.replace(experiment(steps=1, learning_rate=1e-30), init=str(finished))
    train.train(config, tmp_path / "next")
    close(arrays(tmp_path / "next"), arrays(finished))


def test_init_that_does_not_exist_is_refused(stand_in, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train.train(dataclasses.replace(experiment(), init="nowhere.pth"), tmp_path)
