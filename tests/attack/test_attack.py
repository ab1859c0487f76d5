"""A few inputs of every kind of `scripts/attack.py`: none ends in silence, without a cause, or in a traceback."""

import gc
import importlib.util
import json
import subprocess
import sys

import pytest

from tests.attack import attacking
from tests.support import ROOT

# So many of each kind take some seconds; the whole is `scripts/attack.py --minutes 60`.
FEW = {
    "images": 600,
    "tiffs": 200,
    "checkpoints": 90,
    "manifests": 100,
    "configurations": 500,
    "commands": 40,
    "options": 60,
    "names": 1500,
    "workdirs": 15,
    "requests": 1500,
    "server": 150,
}
NEEDS = {
    "tiffs": ("rasterio",),
    "options": ("fastapi_offline", "gradio"),
    "server": ("fastapi_offline", "prometheus_client"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FEW)
def test_inputs_of_a_kind(tmp_path, kind):
    for library in NEEDS.get(kind, ()):
        pytest.importorskip(library)
    attacked, wrong, verdicts = attacking.open_kind(kind, tmp_path), [], set()
    try:
        for number in range(FEW[kind]):
            verdict, said, seconds = attacking.judged(attacked, attacking.generator(kind, 0, number))
            verdicts.add(verdict)
            if verdict in attacking.BAD or seconds > 30:
                wrong.append((number, verdict, said, seconds))
    finally:
        attacked.close()
        gc.collect()  # what Orbax leaves behind where it cannot read tells of itself here, where nobody minds
    assert not wrong, wrong[:5]
    assert verdicts <= set(attacking.GOOD)


def test_every_kind_is_tried_here_or_needs_a_server():
    assert set(attacking.WANTED) - set(FEW) == {"page"}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("attack_script", ROOT / "scripts/attack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_counts_goes_on_and_has_a_table(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "wanted", lambda: {"requests": 30, "names": 20})
    for share in ("0.5", "1"):
        monkeypatch.setattr(sys, "argv", ["attack.py", "--folder", str(tmp_path / "a"), "--share", share])
        with pytest.raises(SystemExit) as caught:
            script.main()
        assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "| requests | 15 | 15 | 0 | 0 | 0 | 0 | 0 | 0 |" in printed
    assert "| requests | 30 | 30 | 0 |" in printed
    assert json.loads((tmp_path / "a" / "state.json").read_text())["kinds"]["names"]["next"] == 20
    with pytest.raises(SystemExit, match="holds a run of seed 0"):
        script.State(tmp_path / "a", 1)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [("import time; time.sleep(60)", "hang"), ("import os; os._exit(9)", "traceback")],
)
def test_a_process_that_hangs_or_dies_is_an_input_that_went_wrong(script, tmp_path, monkeypatch, program, verdict):
    tell = 'print(\'{"ready": true}\\n{"number": 4, "verdict": "fine", "said": ""}\', flush=True)\n'
    popen = subprocess.Popen
    monkeypatch.setattr(script, "HANG", 0.5)
    monkeypatch.setattr(
        script.subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", tell + program], **options)
    )
    state = script.State(tmp_path, 0)
    state.of("x")["next"] = 4
    script.attack(state, "x", 10, 60)
    assert (state.of("x")["fine"], state.of("x")[verdict], state.of("x")["next"]) == (1, 1, 6)
    assert json.loads((tmp_path / "found.jsonl").read_text())["number"] == 5
