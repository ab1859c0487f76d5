"""A program laid out as the published one, with a model of two layers, and jobs that run it in this process."""

import json
import pathlib
import sys

from benchmarks.published.job import Job

CONFIG = "def add_cat_seg_config(cfg):\n    cfg.MODEL.SEM_SEG_HEAD.HIDDEN_DIMS = 7\n"
SETTINGS = "MODEL:\n  META_ARCHITECTURE: Small\n  SEM_SEG_HEAD:\n    NAME: SmallHead\n"
HEAD = """
import torch
from torch import nn
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from timm.layers import Mlp

class Predictor:
    class_texts, prompt_templates, clip_model, calls = ["sky"], ["{}"], None, 0

    def get_text_embeds(self, names, templates, clip):
        self.calls += 1

@SEM_SEG_HEADS_REGISTRY.register()
class SmallHead(nn.Module):
    @configurable
    def __init__(self, *, classes, hidden):
        super().__init__()
        self.predictor = Predictor()
        self.ones = torch.ones(3)
        self.mlp = Mlp(in_features=3, hidden_features=hidden, out_features=classes)

    def forward(self, pixels):
        return self.mlp(pixels * self.ones.unsqueeze(0).cuda())

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
        self.sem_seg_head = head
        self.names = clip.load("ViT-B/16")[0]

    @classmethod
    def from_config(cls, cfg):
        return {"head": build_sem_seg_head(cfg, None)}

    def forward(self, batch):
        images = ImageList.from_tensors([x["image"] for x in batch], 32).tensor
        logits = self.sem_seg_head(images.permute(0, 2, 3, 1) / 255).permute(0, 3, 1, 2)
        if self.training:
            target = torch.stack([x["sem_seg"] for x in batch])
            return {"loss": nn.functional.cross_entropy(logits, target, ignore_index=255)}
        shape = (batch[0]["height"], batch[0]["width"])
        return [{"sem_seg": sem_seg_postprocess(logits[0].sigmoid(), logits.shape[-2:], *shape)}]
"""


def write(folder: pathlib.Path) -> None:
    """The program's files."""
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
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def forget() -> None:
    """Each process of a side-by-side run begins without these modules."""
    packages = ("cat_seg", "detectron2", "timm", "fvcore", "clip", "open_clip", "torchvision")
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            del sys.modules[name]


def run_job(module, job: Job, folder: pathlib.Path, monkeypatch) -> dict:
    """The reply of a program's process, which is this one here."""
    job.write(folder / "job.json")
    monkeypatch.setattr(sys, "argv", ["program", str(folder / "job.json"), str(folder / "out.json")])
    forget()
    module.main()
    return json.loads((folder / "out.json").read_text())
