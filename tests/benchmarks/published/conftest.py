"""The small program that stands for the published one."""

import pathlib

import pytest

from tests.support import published_program


@pytest.fixture
def program(tmp_path: pathlib.Path, monkeypatch) -> pathlib.Path:
    """A folder laid out as the published program's; the modules it brings are forgotten afterwards."""
    import torch
    from torch._subclasses.functional_tensor import FunctionalTensor

    published_program.write(tmp_path)
    for kind in (torch.Tensor, FunctionalTensor):
        monkeypatch.setattr(kind, "cuda", kind.cuda)  # put back afterwards
    yield tmp_path
    published_program.forget()
