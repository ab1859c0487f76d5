"""What goes to a machine with a GPU and no network, and what is done there; with stand-ins for Python."""

import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest

from benchmarks import results_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
echo "$PYTHONPATH | $*" >> "$RECORDS"
while [[ $# -gt 0 ]]; do
  if [[ $1 == --dest ]]; then touch "$2/grain-0.2.18-cp312-cp312-manylinux_2_28_x86_64.whl"; fi
  shift
done
"""


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """Both scripts in a folder of their own, with a stand-in for Python that writes down how it was called."""
    folder = tmp_path / "checkout"
    (folder / "benchmarks" / "results").mkdir(parents=True)
    for name in ("gpu.sh", "gpu_pack.sh", "gpu_wheels.txt"):
        shutil.copy(ROOT / "benchmarks" / name, folder / "benchmarks")
    (folder / "docs").mkdir()
    (folder / "docs" / "performance.md").write_text("page")
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    return folder


def run(checkout: pathlib.Path, script: str, *arguments: str, **settings: str) -> tuple[int, list[str], str]:
    """(exit code, calls of Python as "PYTHONPATH | arguments", what was printed)."""
    records = checkout / "records"
    records.unlink(missing_ok=True)
    environment = os.environ | {"PYTHON": str(checkout / "python"), "RECORDS": str(records), "PYTHONPATH": ""}
    environment.pop("JAX_PLATFORMS", None)  # of the tests; the script takes CUDA unless it is told otherwise
    command = ["bash", str(checkout / "benchmarks" / script), *arguments]
    done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=False)
    return done.returncode, records.read_text().splitlines() if records.exists() else [], done.stdout + done.stderr


def test_what_is_packed_is_used_there(checkout, tmp_path):
    program, shared = tmp_path / "program", tmp_path / "shared"
    for path in (program / "cat_seg" / "config.py", program / ".git" / "HEAD", shared / "golden" / "a.npz"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    code, (download, wheel), _ = run(checkout, "gpu_pack.sh", str(program), str(shared))
    assert code == 0
    assert "-m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12" in download
    assert download.endswith("--requirement benchmarks/gpu_wheels.txt")
    assert wheel.endswith("-m pip wheel --quiet --no-deps --wheel-dir gpu_pack/wheels promise>=2.3,<3")
    pack = checkout / "gpu_pack"
    assert {str(path.relative_to(pack)) for path in pack.rglob("*") if path.is_file()} == {
        "wheels/grain-0.2.18-cp312-cp312-manylinux_2_28_x86_64.whl",
        "program/cat_seg/config.py",
        "shared/golden/a.npz",
    }
    code, calls, _ = run(checkout, "gpu.sh", AHS_SEG_STAGES="goldens published", AHS_SEG_RESULTS=str(tmp_path / "out"))
    assert code == 0
    install, goldens, *beside, report = calls
    assert re.search(r"-m pip install .*--no-index --no-deps .*--target /\S+ gpu_pack/wheels/grain-0\.2\.18", install)
    site = re.search(r"--target (\S+)", install)[1]
    assert goldens.startswith(f"{site}:{checkout} | -m benchmarks.goldens --platform cuda ")
    assert goldens.endswith("--shared gpu_pack/shared")
    assert [re.search(r"--program (\S+) .*--work (\w+)", call).groups() for call in beside] == [
        ("gpu_pack/program", work) for work in ("whole", "sliding", "training")
    ]
    assert "benchmarks.report" in report
    assert not pathlib.Path(site).exists()
    assert (tmp_path / "out" / "performance.md").read_text() == "page"


def test_a_stopped_run_goes_on_from_the_files_of_the_day(checkout, tmp_path):
    today = subprocess.run(["date", "+%F"], capture_output=True, text=True, check=True).stdout.strip()
    results_file.add(checkout / "benchmarks" / "results" / f"gpu_training_{today}.json", {"key": "done"})
    out = tmp_path / "out"
    settings = {"AHS_SEG_STAGES": "training", "AHS_SEG_RESULTS": str(out)}
    code, calls, _ = run(checkout, "gpu.sh", **settings)
    assert (code, len(calls)) == (0, 4)
    assert results_file.read(out / f"gpu_training_{today}.json") == [{"key": "done"}]
    code, calls, printed = run(checkout, "gpu.sh", **settings, AHS_SEG_MINUTES="0")
    assert code == 1
    assert len(calls) == 1, "the page alone"
    assert printed.count("no time left for: ") == 3


def test_what_lacks_is_said(checkout):
    code, calls, printed = run(checkout, "gpu.sh", AHS_SEG_STAGES="published")
    assert (code, len(calls)) == (0, 1)
    assert "the published program is left out: no FOLDER was given, and none is in gpu_pack" in printed
    code, calls, printed = run(checkout, "gpu.sh", AHS_SEG_STAGES="training all")
    assert code == 2
    assert "error: AHS_SEG_STAGES has all; choose of goldens training inference large published" in printed


def test_wheels_have_the_bounds_of_our_dependencies():
    lines = (ROOT / "benchmarks" / "gpu_wheels.txt").read_text().splitlines()
    wheels = {re.split("[<>=]", line)[0]: line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {re.split("[<>=]", line)[0]: line for line in project["dependencies"]}
    assert {name: wheels[name] for name in wheels.keys() & bounds.keys()} == {
        name: bounds[name] for name in wheels.keys() & bounds.keys()
    }
    assert {"array-record", "clu", "ftfy", "grain", "ml-collections", "tensorflow-datasets"} <= wheels.keys()
