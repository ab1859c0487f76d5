"""The study of towers: the kinds differ in what is said, and the page says what the file holds."""

import json

import pytest

from scripts import tower_study

RECORD = {"data": "scenes", "kind": "clip", "steps": 400, "images": 200, "parameters": {"image": 1234567, "text": 9}}
PAGE = "# Towers\n<!-- study -->\nold\n<!-- end study -->\nafter\n"


def record(seed, miou, **changes):
    found = RECORD | {"seed": seed, "scores": {"mIoU": miou, "pACC": 50.0 + seed}} | changes
    asked = {name: found[name] for name in ("data", "kind", "seed", "steps")}
    return found | {"key": f"towers {json.dumps(asked, sort_keys=True)}"}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(tower_study, "JSON", tmp_path / "towers.json")
    monkeypatch.setattr(tower_study, "PAGE", tmp_path / "towers.md")
    (tmp_path / "towers.md").write_text(PAGE)
    records = [record(1, 30.0), record(0, 20.0), record(0, 7.0, kind="pe", data="folder", steps=200)]
    (tmp_path / "towers.json").write_text(json.dumps({"records": records}))
    return tmp_path


@pytest.mark.parametrize("kind", tower_study.KINDS)
@pytest.mark.parametrize("data", tower_study.CONFIGS)
def test_every_run_is_valid_and_differs_in_its_towers_alone(data, kind):
    found, clip = (tower_study.experiment_of(data, name, 2, 300, "there") for name in (kind, "clip"))
    assert found.problems() == []
    assert (found.seed, found.train.steps, found.data.root) == (2, 300, "there")
    for part in ("image", "text"):
        ours, theirs = getattr(found.model, part), getattr(clip.model, part)
        fields = ("layers", "width", "heads", "patch_size", "crop", "context", "vocab_size")
        assert all(getattr(ours, name, None) == getattr(theirs, name, None) for name in fields)
    assert (found.train, found.losses, found.data) == (clip.train, clip.losses, clip.data)


def test_the_page_says_what_the_file_holds(files, capsys):
    assert tower_study.main(["--check"]) == 1
    assert tower_study.main(["--write-only"]) == 0
    page = (files / "towers.md").read_text()
    assert (
        "| drawn scenes | 400 | clip | 1,234,567 | 25.0 ± 7.1 (20.0, 30.0) | 50.5 ± 0.7 (50.0, 51.0) | 0, 1 |" in page
    )
    assert "| street photographs (CamVid, reduced) | 200 | pe | 1,234,567 | 7.0 | 50.0 | 0 |" in page
    assert page.startswith("# Towers\n")
    assert page.endswith("after\n")
    assert tower_study.main(["--check"]) == 0
    (files / "towers.md").write_text(page.replace("25.0", "52.0"))
    assert tower_study.main(["--check"]) == 1
    assert "52.0" in (files / "towers.md").read_text()


def test_what_the_file_holds_is_not_trained_again(files, monkeypatch):
    trained = []
    made = {"scores": {"mIoU": 1.0, "pACC": 2.0}, "images": 1, "parameters": {"image": 3, "text": 4}, "seconds": 5}
    monkeypatch.setattr(tower_study, "run", lambda experiment: trained.append(experiment) or made)
    assert tower_study.main(["--kinds", "clip", "--seeds", "0", "2", "--steps", "400"]) == 0
    assert [(e.seed, e.model.image.tower) for e in trained] == [(2, "clip")]
    assert len(json.loads((files / "towers.json").read_text())["records"]) == 4
