"""The notebooks run from top to bottom on a CPU with the small model, and are stored without outputs."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from ahs_seg_jax.segmenter import read_png
from scripts import colab_links
from tests.support import ROOT
from tests.support.xla_flags import xla_flags

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
COLAB = {path.stem: path for path in NOTEBOOKS}


def cells(path: pathlib.Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebooks_are_found():
    assert list(COLAB) == ["components", "evaluate", "finetune", "segment"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_with_the_settings_first(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    assert "CHECKPOINT = " in "".join(cells(path)[0]["source"])
    for cell in cells(path):
        compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("extras", "there", "words"),
    [
        ("", (), [str(ROOT)]),
        ("", ("jax", "jaxlib"), [str(ROOT), "jax==0.99.1", "jaxlib==0.99.2"]),  # the runtime's own stay
        ("convert", ("jax", "jaxlib"), [f"{ROOT}[convert]", "jax==0.99.1", "jaxlib==0.99.2"]),
        ("cuda,convert", ("jax", "jaxlib"), [f"{ROOT}[cuda,convert]"]),
    ],
)
def test_installs_the_checkout_and_keeps_the_runtime_s_jax(path, extras, there, words, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(importlib.metadata, "version", {"jax": "0.99.1", "jaxlib": "0.99.2"}.get)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    install = next("".join(cell["source"]) for cell in cells(path) if "find_spec" in "".join(cell["source"]))
    exec(install, {"EXTRAS": extras})
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", *words]]
    assert "EXTRAS = " in "".join(cells(path)[0]["source"])
    assert capsys.readouterr().out.startswith("4 x cpu, JAX ")


def test_the_links_are_those_of_the_repository_s_address(tmp_path):
    """Each notebook has a link to open it in Colab if, and only if, pyproject.toml says where the repository is."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {}).get("Repository", "")
    for path in NOTEBOOKS:
        assert colab_links.linked(path.read_text("utf-8"), path.name, address) == path.read_text("utf-8")
        linked = colab_links.linked(path.read_text("utf-8"), path.name, "https://github.com/a/b")
        first = json.loads(linked)["cells"][0]["source"][0]
        assert f"(https://colab.research.google.com/github/a/b/blob/main/colab/{path.name})" in first
        assert (
            colab_links.linked(linked, path.name, "https://github.com/c/d").count("research.google.com/github/c/d") == 1
        )
        assert colab_links.linked(linked, path.name, "") == colab_links.linked(path.read_text("utf-8"), path.name, "")
    with pytest.raises(ValueError, match=r"Repository is 'https://example.org/a'; Colab opens .*https://github.com/"):
        colab_links.linked(NOTEBOOKS[0].read_text("utf-8"), "a.ipynb", "https://example.org/a")


def run(path: pathlib.Path, folder: pathlib.Path, monkeypatch, **settings: str) -> str:
    """Executes a notebook in `folder`; returns what it printed."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in [name for name in os.environ if name.startswith("AHS_SEG_")]:
        monkeypatch.delenv(name)
    for name, value in ({"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XLA_FLAGS", xla_flags(1))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs) + f"\n{pictures} pictures"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_evaluate(tmp_path, monkeypatch):
    printed = run(COLAB["evaluate"], tmp_path, monkeypatch)
    assert "voc_21, pascal_context_60, coco_object, cityscapes" in printed
    content = json.loads((tmp_path / "evaluation" / "results" / "scenes_val_quick.json").read_text())
    assert f"mIoU {content['scores']['mIoU']:.2f} (seen " in printed
    assert content["data"]["images"] == 100
    assert content["benchmark"] == "scenes"
    assert printed.endswith("6 pictures")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_segment(tmp_path, monkeypatch):
    printed = run(COLAB["segment"], tmp_path, monkeypatch)
    assert printed.endswith("4 pictures")
    labels, names = read_png(tmp_path / "labels.png")
    assert len(names) == 3
    assert set(np.unique(labels)) <= {-1, 0, 1, 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_finetune(tmp_path, monkeypatch):
    printed = run(COLAB["finetune"], tmp_path, monkeypatch, AHS_SEG_STEPS="4", AHS_SEG_BATCH_SIZE="2")
    assert "20 images to evaluate on; 19 words" in printed
    assert "FINISHED" in printed
    scores = [json.loads((tmp_path / f"finetuned_{when}" / "results" / f"{when}_val.json").read_text())["scores"]
              for when in ("before", "after")]  # fmt: skip
    assert f"mIoU {scores[0]['mIoU']:.2f} before, {scores[1]['mIoU']:.2f} after" in printed
    assert printed.endswith("2 pictures")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_components(tmp_path, monkeypatch):
    printed = run(COLAB["components"], tmp_path, monkeypatch, AHS_SEG_STEPS="2")
    assert "adaptation ha_hem, MH-FPN True, DC-HSP True" in printed
    assert re.search(r"text: beta 0\.(69|70)", printed)
    assert printed.endswith("4 pictures")
