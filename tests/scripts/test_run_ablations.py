"""The ablation study: its six rows on any configuration, what is skipped and continued, the table by hand."""

import json
import pathlib
import subprocess

import pytest

from ahs_seg_jax.config import Experiment, TrainConfig, ablation, identity
from ahs_seg_jax.models import architecture
from scripts import run_ablations
from scripts.ablation_study import Study
from tests.support.xla_flags import xla_flags

TINY = str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "tiny.py:smoke")
COMPONENTS = {"none": "", "ha_hem": "h", "mh_fpn": "m", "dc_hsp": "d", "ha_hem_mh_fpn": "hm", "all": "hmd"}


def components(experiment: Experiment) -> str:
    model = experiment.model
    return "h" * (model.adaptation == "ha_hem") + "m" * model.mh_fpn + "d" * model.dc_hsp


def test_six_rows():
    base = Experiment(model=architecture.tiny(), train=TrainConfig(finetune="scratch"))
    rows = {row: ablation.ablated(base, row) for row in ablation.ROWS}
    assert {row: components(experiment) for row, experiment in rows.items()} == COMPONENTS
    assert all(experiment.problems() == [] for experiment in rows.values())
    assert len({identity.fingerprint(experiment) for experiment in rows.values()}) == 6
    assert rows["none"].model.adaptation == "none"
    assert rows["mh_fpn"].name == "experiment_mh_fpn"


def test_a_recipe_that_trains_rotations_keeps_plain_ones():
    base = Experiment(init="random", model=architecture.tiny(), train=TrainConfig(finetune="orthogonal"))
    rows = {row: ablation.ablated(base, row) for row in ablation.ROWS}
    assert {row: components(experiment) for row, experiment in rows.items()} == COMPONENTS
    assert rows["none"].model.adaptation == rows["dc_hsp"].model.adaptation == "orthogonal"
    assert all(experiment.problems() == [] for experiment in rows.values())


def test_unknown_row():
    with pytest.raises(ValueError, match="there is no ablation row 'hem'; choose one of none, ha_hem, mh_fpn"):
        ablation.changes(Experiment(), "hem")


def test_plan_goes_seed_by_seed_and_sets_the_fields(tmp_path):
    runs = run_ablations.plan(TINY, ["--config.train.steps=3"], ["none", "all"], [5, 7], tmp_path)
    assert [(run.row, run.seed) for run in runs] == [("none", 5), ("all", 5), ("none", 7), ("all", 7)]
    assert len({run.fingerprint for run in runs}) == 4
    assert runs[0].arguments == [
        f"--config={TINY}",
        "--config.train.steps=3",
        "--config.name=tiny_none",
        "--config.seed=5",
        "--config.mode=train",
        "--config.model.adaptation=none",
        "--config.model.mh_fpn=False",
        "--config.model.dc_hsp=False",
        f"--workdir={tmp_path / 'none_seed5'}",
    ]


class Program:
    """In the place of the program: writes results, or stops at a run."""

    def __init__(self, monkeypatch, stop_at: str = ""):
        self.calls, self.stop_at, self.code = [], stop_at, 0
        monkeypatch.setattr(subprocess, "Popen", self)

    def __call__(self, command):
        folder = pathlib.Path(command[-1].removeprefix("--workdir="))
        self.calls.append(folder.name)
        self.code = 130 if folder.name == self.stop_at else 0
        (folder / "results").mkdir(parents=True, exist_ok=True)
        for step in (2, 4):
            miou = 10.0 * len(self.calls) + step
            scores = {"mIoU": miou, "mIoU_seen": miou, "mIoU_unseen": None}
            content = {"scores": scores, "checkpoint": {"step": step}, "protocol": "whole", "data": {"images": 4}}
            content["hardware"] = {"devices": 1, "device": "cpu"}
            (folder / "results" / f"scenes_val_{step:06d}.json").write_text(json.dumps(content))
        return self

    def wait(self) -> int:
        return self.code


def test_finished_runs_are_skipped_and_a_stopped_one_is_continued(tmp_path, monkeypatch, capsys):
    program = Program(monkeypatch, stop_at="ha_hem_seed1")
    arguments = [f"--config={TINY}", f"--workdir={tmp_path}", "--seeds", "1", "--rows", "none", "ha_hem", "all"]
    assert run_ablations.main(arguments) == 130
    assert "ha_hem_seed1 ended with code 130; the same command continues" in capsys.readouterr().err
    assert program.calls == ["none_seed1", "ha_hem_seed1"]
    program.stop_at = ""
    assert run_ablations.main(arguments) == 0
    assert program.calls[2:] == ["ha_hem_seed1", "all_seed1"]
    assert "[1/3] none, seed 1: finished already" in capsys.readouterr().out
    assert run_ablations.main(arguments) == 0
    assert len(program.calls) == 4
    assert run_ablations.main([*arguments, "--config.train.learning_rate=0.5"]) == 0
    assert len(program.calls) == 7  # another recipe: nothing of it is finished
    study = Study.from_json((tmp_path / "ablation.json").read_text())
    assert study.by_row()["none"][0].score("mIoU") == 54.0  # of the fifth call, after its last step
    assert study.about == {"config": f"{TINY} --config.train.learning_rate=0.5", "steps": 4, "batch_size": 4}
    assert "| all | x | x | x | 74.00 |" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.train.step=3"], "did you mean train.steps?"),
        (["--config.train.batch_size=0"], "train.batch_size is 0; it must be positive"),
        (
            ["--config.train.finetune=full", "--config.init=random", "--config.model.adaptation=none"],
            "row ha_hem: train.finetune is 'full' but",
        ),
    ],
)
def test_mistakes(tmp_path, capsys, arguments, words):
    assert run_ablations.main([f"--config={TINY}", f"--workdir={tmp_path}", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_two_rows_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags(1))
    arguments = [f"--config={TINY}", f"--workdir={tmp_path}", "--seeds", "3", "--rows", "none", "all"]
    assert run_ablations.main(arguments) == 0
    text = (tmp_path / "ablation.md").read_text()
    assert "| none |  |  |  | " in text
    assert "| all | x | x | x | " in text
