"""NACLIP's side of a side-by-side run, with a program that is made up here and laid out as the published one."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from benchmarks.published import side_by_side
from benchmarks.published.job import NACLIP, Job

PROGRAM = """
import torch
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS

@MODELS.register_module()
class NACLIP(BaseSegmentor):
    def __init__(self, clip_path, name_path, device):
        super().__init__(data_preprocessor=SegDataPreProcessor(mean=[1], std=[1], rgb_to_bgr=True))
        self.weight = torch.load(clip_path)["weight"]
        with open(name_path) as file:
            self.names = file.read().splitlines()

    def predict(self, inputs, data_samples):
        (sample,) = data_samples
        self.seen = tuple(inputs.shape)
        logits = torch.einsum("bchw,tc->bthw", inputs, self.weight)
        size = sample.metainfo["ori_shape"]
        found = torch.nn.functional.interpolate(logits, size=size, mode="bilinear")[0].softmax(0)
        labels = found.argmax(0, keepdim=True)
        sample.set_data({"seg_logits": PixelData(data=found), "pred_sem_seg": PixelData(data=labels)})
"""
CLIP = """
import torch
from torchvision.transforms import Compose, Resize
Compose([Resize(4, interpolation=3)])

def CLIP(*sizes):
    return torch.nn.Linear(3, 4, bias=sizes[:2] != (512, 224))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Its folder; the modules that it brings are forgotten afterwards."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "naclip.py").write_text(PROGRAM)
    (tmp_path / "clip" / "__init__.py").write_text("")
    (tmp_path / "clip" / "model.py").write_text(CLIP)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("naclip", "clip", "mmengine", "mmseg", "pkg_resources", "torchvision"):
            del sys.modules[name]


@pytest.mark.filterwarnings("default")
def test_the_published_model_alone(program, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.published import naclip

    names, size = ("sky", "tree", "road", "sea"), (60, 91)
    job = Job(NACLIP, str(program), names, str(tmp_path / "weights.pth"), image=size, repetitions=2)

    def run(work: str) -> dict:
        one = dataclasses.replace(job, work=work, count_flops=True, answer=str(tmp_path / "answer.npz"))
        one.write(tmp_path / "job.json")
        monkeypatch.setattr(sys, "argv", ["published", str(tmp_path / "job.json"), str(tmp_path / "out.json")])
        naclip.main()
        return json.loads((tmp_path / "out.json").read_text())

    assert run(f"{NACLIP}_weights") == {}
    record = run(NACLIP)
    assert len(record["seconds"]) == 2
    assert record["flops"] == 2 * 336 * 510 * 3 * 4  # the short side becomes 336
    found = np.load(tmp_path / "answer.npz")
    assert (found["labels"].shape, found["probabilities"].shape) == (size, (4, 8, 12))
    model = naclip.build(job)
    assert model.names == list(names)
    assert (model.weight == model.weight.half()).all()
    naclip.segmented(model, job, 3)
    assert model.seen == (1, 3, 336, 510)


def test_a_folder_without_the_program(tmp_path):
    pytest.importorskip("torch")
    from benchmarks.published import naclip

    with pytest.raises(FileNotFoundError, match=r"holds no naclip.py; pass the folder into which NACLIP was unpacked"):
        naclip.install(tmp_path)


def test_it_runs_by_itself(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        side_by_side.parse(["--program", "x", "--work", NACLIP, "whole"])
    assert "--work naclip runs another program than the other works; run it by itself" in capsys.readouterr().err
    started = []
    monkeypatch.setattr(side_by_side, "reply_of", lambda module, job, *_: started.append((module, len(job.names))))
    options = side_by_side.parse(["--program", "x", "--work", NACLIP])
    side_by_side._random_weights(options, tmp_path)
    for program in side_by_side.PROGRAMS:
        side_by_side.turn(program, side_by_side._job(options, NACLIP, tmp_path / "w.pth"), tmp_path)
    assert [module.rpartition(".")[2] for module, _ in started] == ["naclip", "naclip", "ours"]
    assert [count for _, count in started[1:]] == [20, 20]
