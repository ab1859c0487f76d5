"""The notebooks run from top to bottom on a CPU with the small model, and are stored without outputs."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ahs_seg_jax.segmenter import read_png
from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


def cells(path: pathlib.Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebooks_are_found():
    assert [path.name for path in NOTEBOOKS] == ["evaluate.ipynb", "segment.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_with_the_settings_first(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    assert "CHECKPOINT = " in "".join(cells(path)[0]["source"])
    for cell in cells(path):
        compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("extras", "ending"), [("", ""), ("cuda,convert", "[cuda,convert]")])
def test_installs_the_checkout_with_what_the_runtime_needs(path, extras, ending, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    install = next("".join(cell["source"]) for cell in cells(path) if "find_spec" in "".join(cell["source"]))
    exec(install, {"EXTRAS": extras})
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", f"{ROOT}{ending}"]]
    assert "EXTRAS = " in "".join(cells(path)[0]["source"])
    assert capsys.readouterr().out == "4 x cpu\n"


def run(path: pathlib.Path, folder: pathlib.Path, monkeypatch, **settings: str) -> str:
    """Executes a notebook in `folder`; returns what it printed."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in [name for name in os.environ if name.startswith("AHS_SEG_")]:
        monkeypatch.delenv(name)
    for name, value in ({"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XLA_FLAGS", "")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs) + f"\n{pictures} pictures"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_evaluate(tmp_path, monkeypatch):
    printed = run(NOTEBOOKS[0], tmp_path, monkeypatch)
    content = json.loads((tmp_path / "evaluation" / "results" / "scenes_val_quick.json").read_text())
    assert f"mIoU {content['scores']['mIoU']:.2f} (seen " in printed
    assert content["data"]["images"] == 100
    assert content["benchmark"] == "scenes"
    assert printed.endswith("6 pictures")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_segment(tmp_path, monkeypatch):
    printed = run(NOTEBOOKS[1], tmp_path, monkeypatch)
    assert printed.endswith("3 pictures")
    labels, names = read_png(tmp_path / "labels.png")
    assert len(names) == 3
    assert set(np.unique(labels)) <= {0, 1, 2}
