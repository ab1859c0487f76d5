"""Turns, agreement and ratios with programs that are made up here, and a made-up published program in PyTorch."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import results_file
from benchmarks.published import side_by_side
from benchmarks.published.job import IGNORE, Job, picture, training_batch

JOB = Job(work="whole", folder="", names=("sky", "tree", "road"), weights="", image=(37, 53), batch=2, crop=19)


def test_inputs_are_the_same_in_both_processes(tmp_path):
    JOB.write(tmp_path / "job.json")
    assert Job.read(str(tmp_path / "job.json")) == JOB
    assert picture(JOB, 3).shape == (37, 53, 3)
    np.testing.assert_array_equal(picture(JOB, 3), picture(JOB, 3))
    assert (picture(JOB, 3) != picture(JOB, 4)).any()
    images, labels = training_batch(JOB, 0)
    assert images.shape == (2, 19, 19, 3)
    assert labels.shape == (2, 19, 19)
    assert set(np.unique(labels)) <= {0, 1, 2, IGNORE}


def probabilities(change: float = 0.0, wrong: int = 0) -> dict[str, np.ndarray]:
    labels = np.zeros((10, 10), int)
    labels.flat[:wrong] = 1
    return {"probabilities": np.full((3, 2, 2), 0.5) + change, "labels": labels}


def test_agreement_by_hand():
    found = side_by_side.check_agreement(probabilities(), probabilities(0.004, wrong=1))
    assert found == pytest.approx({"largest_difference": 0.004, "equal_labels": 0.99})
    with pytest.raises(RuntimeError, match=r"do not agree.*would be of different work"):
        side_by_side.check_agreement(probabilities(), probabilities(0.02))
    with pytest.raises(RuntimeError, match="do not agree"):
        side_by_side.check_agreement(probabilities(), probabilities(wrong=2))
    side_by_side.check_agreement(probabilities(), probabilities(0.02), "bfloat16")
    losses = {"loss": np.asarray(2.0), "gradient_norm": np.asarray(10.0)}
    other = {"loss": np.asarray(2.002), "gradient_norm": np.asarray(9.95)}
    assert side_by_side.check_agreement(losses, other) == pytest.approx({"loss": 0.001, "gradient_norm": 0.005})
    with pytest.raises(RuntimeError, match="do not agree"):
        side_by_side.check_agreement(losses, losses | {"loss": np.asarray(2.1)})


def test_turns_alternate_and_ratios(monkeypatch, tmp_path, capsys):
    turns = []

    def fake(program, job, folder):
        turns.append((program, job.count_flops, bool(job.answer)))
        if job.answer:
            np.savez(job.answer, **probabilities())
        slow = program == "published"
        return {
            "seconds": [6.0, 8.0] if slow else [2.0, 2.0],
            "processor_seconds": [12.0, 15.0] if slow else [3.0, 3.0],
            "peak_bytes": 8e9 if slow else 2e9,
            "flops": (4e12 if slow else 1e12) if job.count_flops else None,
            "versions": {"torch": "2"} if slow else {"jax": "1"},
        }

    monkeypatch.setattr(side_by_side, "turn", fake)
    output = tmp_path / "results.json"
    command = [
        "--program",
        str(tmp_path),
        "--work",
        "whole",
        "--classes",
        "3",
        "--weights",
        "some.pth",
        "--rounds",
        "2",
    ]
    assert side_by_side.main([*command, "--output", str(output)]) == 0
    assert turns == [
        ("published", True, True),
        ("ours", True, True),
        ("published", False, False),
        ("ours", False, False),
    ]
    (record,) = results_file.read(output)
    assert record["times_faster"] == 3.5
    assert record["times_less_processor_time"] == 4.5
    assert record["times_faster_each_round"] == [3.5, 3.5]
    assert record["memory_share"] == 0.25
    assert record["flops_share"] == 0.25
    assert record["settings"]["names"] == 3
    assert record["versions"] == {"torch": "2", "jax": "1"}
    assert (
        "side_by_side_whole: 3.50 times faster (7 s and 2 s), 4.50 times less processor time, 0.25 of the peak memory"
        in capsys.readouterr().out
    )


def test_failing_program_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(side_by_side.PROGRAMS, "published", "benchmarks.published.no_such_module")
    command = ["--program", str(tmp_path), "--work", "whole", "--weights", "some.pth", "--output", str(tmp_path / "r")]
    assert side_by_side.main(command) == 1
    message = capsys.readouterr().err
    assert "published, whole: exit status 1" in message
    assert "no_such_module" in message


# ------------------------------------------------------------------------------------------ a published program

CONFIG = "def add_cat_seg_config(cfg):\n    cfg.MODEL.SEM_SEG_HEAD.HIDDEN_DIMS = 7\n"
SETTINGS = "MODEL:\n  META_ARCHITECTURE: Small\n  SEM_SEG_HEAD:\n    NAME: SmallHead\n"
HEAD = """
from torch import nn
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from timm.layers import Mlp

@SEM_SEG_HEADS_REGISTRY.register()
class SmallHead(nn.Module):
    @configurable
    def __init__(self, *, classes, hidden):
        super().__init__()
        self.mlp = Mlp(in_features=3, hidden_features=hidden, out_features=classes)

    @classmethod
    def from_config(cls, cfg, shape):
        return {"classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, "hidden": cfg.MODEL.SEM_SEG_HEAD.HIDDEN_DIMS}
"""
PREDICTOR = "class CATSegPredictor: pass\n"
CLIP = "def build_model(shapes):\n    return sorted(shapes)\n"
MODEL = """
import torch
from torch import nn
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from cat_seg.third_party import clip

@META_ARCH_REGISTRY.register()
class Small(nn.Module):
    @configurable
    def __init__(self, *, head):
        super().__init__()
        self.head = head
        self.names = clip.load("ViT-B/16")[0]

    @classmethod
    def from_config(cls, cfg):
        return {"head": build_sem_seg_head(cfg, None)}

    def forward(self, batch):
        images = ImageList.from_tensors([x["image"] for x in batch], 32).tensor
        logits = self.head.mlp(images.permute(0, 2, 3, 1) / 255).permute(0, 3, 1, 2)
        if self.training:
            target = torch.stack([x["sem_seg"] for x in batch])
            return {"loss": nn.functional.cross_entropy(logits, target, ignore_index=255)}
        shape = (batch[0]["height"], batch[0]["width"])
        return [{"sem_seg": sem_seg_postprocess(logits[0].sigmoid(), logits.shape[-2:], *shape)}]
"""


@pytest.fixture
def program(tmp_path: pathlib.Path, monkeypatch) -> pathlib.Path:
    """A folder laid out as the published program's; the modules it brings are forgotten afterwards."""
    files = {
        "configs/config.yaml": SETTINGS,
        "configs/vitb_384.yaml": "_BASE_: config.yaml\nMODEL:\n  MASK: 1\n",
        "cat_seg/__init__.py": "raise ImportError('data sets must not be imported')",
        "cat_seg/config.py": CONFIG,
        "cat_seg/cat_seg_model.py": MODEL,
        "cat_seg/modeling/__init__.py": "raise ImportError('other backbones must not be imported')",
        "cat_seg/modeling/heads/cat_seg_head.py": HEAD,
        "cat_seg/modeling/transformer/cat_seg_predictor.py": PREDICTOR,
        "cat_seg/third_party/__init__.py": "",
        "cat_seg/third_party/clip.py": CLIP,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    import torch

    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)  # put back afterwards
    yield tmp_path
    forget()


def forget() -> None:
    """Each process of a side-by-side run begins without these modules."""
    packages = ("cat_seg", "detectron2", "timm", "fvcore", "clip", "open_clip", "torchvision")
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            del sys.modules[name]


@pytest.mark.filterwarnings("default")
def test_published_program_is_built_from_its_folder(program, monkeypatch, tmp_path):
    from benchmarks.published import theirs

    job = dataclasses.replace(JOB, folder=str(program), weights=str(tmp_path / "weights.pth"), repetitions=2)
    model = theirs.build(job)
    assert "visual.proj" in model.names
    assert model.head.mlp.fc1.weight.shape == (7, 3)
    theirs.fill(model)
    first = model.head.mlp.fc1.weight.clone()
    theirs.fill(model)
    assert (model.head.mlp.fc1.weight == first).all()

    def run(work: str) -> dict:
        answer = tmp_path / f"{work}.npz"
        one = dataclasses.replace(job, work=work, count_flops=work != "weights", answer=str(answer))
        one.write(tmp_path / "job.json")
        monkeypatch.setattr(sys, "argv", ["published", str(tmp_path / "job.json"), str(tmp_path / "out.json")])
        forget()
        theirs.main()
        return json.loads((tmp_path / "out.json").read_text())

    assert run("weights") == {}
    record = run("whole")
    assert len(record["seconds"]) == 2
    assert record["flops"] == 2 * 37 * 53 * (3 * 7 + 7 * 3)
    found = np.load(tmp_path / "whole.npz")
    assert found["labels"].shape == (37, 53)
    assert found["probabilities"].shape == (3, 5, 7)
    assert run("training")["flops"] == 2 * 2 * 19 * 19 * (3 * 7 * 2 + 7 * 3 * 3)
    assert set(np.load(tmp_path / "training.npz")) == {"loss", "gradient_norm"}


def test_folder_without_the_program(tmp_path):
    from benchmarks.published import stand_ins

    with pytest.raises(FileNotFoundError, match=r"holds no cat_seg/cat_seg_model.py; pass the folder"):
        stand_ins.install(tmp_path)


def test_weights_that_lack_a_parameter(tmp_path):
    import torch

    from benchmarks.published import theirs

    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"no weights for 2 parameters of the program, such as bias"):
        theirs.load(torch.nn.Linear(2, 3), str(tmp_path / "empty.pth"))
