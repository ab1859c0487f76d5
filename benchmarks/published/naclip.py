"""The published NACLIP program at work, in a process of its own: `python -m benchmarks.published.naclip JOB OUTPUT`.

Its model alone, in eager mode with its own settings: windows of 224 every 112 pixels, PAMR. Pictures are resized and
normalised before they are timed. None of its code is here; its modules come from the folder that the job names. It
rounds CLIP's weights to half precision when it loads them, so those that are compared must be such numbers already, as
OpenAI's are.
"""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import job as jobs
from benchmarks.published import stand_ins, theirs
from benchmarks.published.job import PROBABILITIES_EVERY, Job, picture

SHORT_SIDE, LONGEST = 336, 2048  # pixels, of its resized pictures
# Embedding; the image's side, blocks, width and patch; the text's length, words, width, heads and blocks.
VITB16 = (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
TRANSFORMS = ("Compose", "Resize", "CenterCrop", "ToTensor", "Normalize")
MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)  # of its normalisation


class Segmentor(nn.Module):
    """In place of mmsegmentation's base class, which resizes and normalises pictures before the model sees them."""

    def __init__(self, data_preprocessor: Any = None):
        super().__init__()


class Models(dict[str, Any]):
    """In place of mmsegmentation's registry."""

    register_module = stand_ins.Registry.register


@dataclasses.dataclass
class Sample:
    """In place of mmsegmentation's data sample: what the model reads of a picture, and where it puts its result."""

    metainfo: dict[str, Any]
    found: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def set_data(self, values: dict[str, dict[str, torch.Tensor]]) -> None:
        """Takes the result."""
        self.found = {name: value["data"] for name, value in values.items()}


def stand_in() -> None:
    """Puts stand-ins in the place of packages that are not installed."""
    version = type("Version", (), {"parse": staticmethod(lambda text: tuple(map(int, text.split("+")[0].split("."))))})
    modules: dict[str, dict[str, Any]] = {
        "mmengine": {},
        "mmengine.structures": {"PixelData": dict},
        "mmseg": {},
        "mmseg.models": {},
        "mmseg.models.data_preprocessor": {"SegDataPreProcessor": lambda **_: None},
        "mmseg.models.segmentors": {"BaseSegmentor": Segmentor},
        "mmseg.registry": {"MODELS": Models()},
        "pkg_resources": {"packaging": type("packaging", (), {"version": version})},
        "torchvision": {},
        "torchvision.transforms": dict.fromkeys(TRANSFORMS, lambda *_, **__: None),  # made, and never called
    }
    for name in {name.partition(".")[0] for name in modules}:
        if not stand_ins.installed(name):
            for module in (module for module in modules if module.partition(".")[0] == name):
                stand_ins.put(module, modules[module])


def install(folder: pathlib.Path) -> Any:
    """The program's module. Raises FileNotFoundError if the folder does not hold it."""
    if not (folder / "naclip.py").is_file():
        raise FileNotFoundError(f"{folder} holds no naclip.py; pass the folder into which NACLIP was unpacked")
    stand_in()
    sys.path.insert(0, str(folder))
    return importlib.import_module("naclip")


def build(job: Job) -> nn.Module:
    """The published model with its weights; the words are encoded."""
    program = install(pathlib.Path(job.folder))
    with tempfile.TemporaryDirectory() as folder:
        names = pathlib.Path(folder) / "names.txt"
        names.write_text("\n".join(job.names))
        return program.NACLIP(job.weights, str(names), device=torch.device(job.device)).eval().requires_grad_(False)


def write_weights(job: Job) -> None:
    """Random weights of ViT-B/16, rounded to half precision."""
    install(pathlib.Path(job.folder))
    model = importlib.import_module("clip.model").CLIP(*VITB16)
    theirs.fill(model)
    torch.save({name: value.half().float() for name, value in model.state_dict().items()}, job.weights)


@functools.cache
def view(job: Job, index: int) -> torch.Tensor:
    """The index-th picture as the model takes it, `[1, 3, h, w]`.

    OpenCV, which its readers use, rounds an eighth of the values otherwise, by 1.
    """
    scale = min(SHORT_SIDE / min(job.image), LONGEST / max(job.image))
    size = [int(extent * scale + 0.5) for extent in job.image]
    image = torch.from_numpy(picture(job, index).copy()).permute(2, 0, 1)[None].float()
    resized = nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=False).round()
    return normalised(resized).to(job.device)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """RGB 0..255 `[1, 3, h, w]` as its reader hands them to the model."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


@torch.no_grad()
def segmented(model: Any, job: Job, index: int) -> Sample:
    """Probabilities and labels of the index-th picture."""
    sample = Sample({"ori_shape": job.image, "img_path": ""})
    model.predict(view(job, index), [sample])
    return sample


def main() -> None:
    """Does the job, writes seconds, peak memory and FLOPs."""
    job, output = Job.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.set_num_threads(job.threads)
    if job.work != jobs.NACLIP:
        write_weights(job)
        output.write_text("{}")
        return
    model = build(job)
    for index in range(2 + job.repetitions):
        view(job, index)
    counter: Any = FlopCounterMode(display=False) if job.count_flops else contextlib.nullcontext()
    with counter:
        segmented(model, job, 1)
    wait = torch.cuda.synchronize if job.device == "cuda" else lambda: None
    record = jobs.timed(lambda index: segmented(model, job, index), job.repetitions, wait) | {
        "device_bytes": torch.cuda.max_memory_allocated() if job.device == "cuda" else None,
        "flops": counter.get_total_flops() if job.count_flops else None,
        "versions": {"torch": torch.__version__},
    }

    def answer() -> dict[str, np.ndarray]:
        found, every = segmented(model, job, 0).found, PROBABILITIES_EVERY
        probabilities = found["seg_logits"][:, ::every, ::every]
        return {"probabilities": probabilities.cpu().numpy(), "labels": found["pred_sem_seg"][0].cpu().numpy()}

    jobs.reply(job, output, record, answer)


if __name__ == "__main__":
    main()
