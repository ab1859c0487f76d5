"""The published PyTorch model as an ONNX file, for ONNX Runtime.

The whole program is traced as it is, from a picture to probabilities and labels. Fixed in the file are the picture's
size and the embeddings of the words, which the program keeps from its first picture on anyway. One thing is asked of
PyTorch: attention by its ordinary operations, not by its fast path, which has no ONNX. And one function is replaced
while the program is traced: `torch.block_diag`, which has no ONNX, by the same matrix from rows padded with zeros.
"""

import warnings
from unittest import mock

import torch
from torch import nn

from benchmarks.published.job import Job, seen

OPSET = 18  # the first that has what puts windows together (Col2Im)
IMAGE, PROBABILITIES, LABELS = "image", "probabilities", "labels"


class _Picture(nn.Module):
    """The program for one picture: float32 `[3, h, w]` to probabilities `[t, H, W]` and labels `[H, W]`."""

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self.size
        result = self.model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]
        return result, result.argmax(0)


def block_diagonal(*blocks: torch.Tensor) -> torch.Tensor:
    """`torch.block_diag` of matrices."""
    width, before, rows = sum(block.shape[1] for block in blocks), 0, []
    for block in blocks:
        after = width - before - block.shape[1]
        rows.append(nn.functional.pad(block, (before, after)))
        before += block.shape[1]
    return torch.cat(rows)


@torch.no_grad()
def export(model: nn.Module, job: Job) -> None:
    """Writes the file that the job names. The words must have been read (`theirs.read_words`)."""
    model.eval().requires_grad_(False)
    image = torch.from_numpy(seen(job, 0).copy()).permute(2, 0, 1).float()
    torch.backends.mha.set_fastpath_enabled(False)
    with mock.patch.object(torch, "block_diag", block_diagonal), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of everything that is fixed, and of its age
        torch.onnx.export(
            _Picture(model, job.image).eval(),
            (image.to(job.device),),
            job.exported,
            dynamo=False,  # the other way needs onnxscript
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=[PROBABILITIES, LABELS],
        )
