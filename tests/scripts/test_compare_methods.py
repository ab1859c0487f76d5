"""The table of all training-free methods, made of results files."""

import json

import pytest

from scripts import compare_methods

TOWER = {"layers": 12, "width": 768, "patch_size": 16}


def add(folder, protocol: str, benchmark: str, score: float | None, **changes) -> None:
    content = {
        "benchmark": benchmark,
        "protocol": protocol,
        "method": {"name": protocol},
        "incomplete": [],
        "class_names": None,
        "data": {"problems": []},
        "model": {"image": TOWER},
        "checkpoint": {"sha256": "one"},
        "scores": {"mIoU": 99.0, "mIoU_labelled_or_predicted": score},
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{benchmark}_val_{protocol}.json").write_text(json.dumps(content))


def table(folder, *benchmarks: str) -> list[str]:
    return compare_methods.make_table(compare_methods.read_results(folder), benchmarks).splitlines()


def test_ours_stand_beside_what_is_reported_for_the_size(tmp_path):
    add(tmp_path, "naclip", "voc_21", 61.234)
    add(tmp_path, "naclip_none", "voc_21", 55.0, incomplete=["quick mode: 100 of 1449 images"])
    add(tmp_path, "sclip", "ade20k_150", None)
    (tmp_path / "trained.json").write_text(json.dumps({"benchmark": "voc_21", "protocol": "cat_seg"}))
    lines = table(tmp_path, "voc_21", "pascal_context_59")
    assert lines[:2] == ["| method | voc_21 | pascal_context_59 | ade20k_150 |", "|---|---|---|---|"]
    assert "| naclip | 61.23 | not run | not run |" in lines
    assert "| NACLIP ViT-B/16 with PAMR, reported | 64.07 | 38.35 | 19.05 |" in lines
    assert "| naclip_none | 55.00* | not run | not run |" in lines
    assert "| sclip | not run | not run | not run |" in lines
    assert "\\* quick mode: 100 of 1449 images." in lines
    assert "With the packaged class names, not those of the methods' programs: ade20k_150, voc_21." in lines
    assert any("NACLIP ViT-B/16 with PAMR: README of the method's program (sinahmr/NACLIP" in line for line in lines)


def test_towers_of_other_sizes_have_no_reported_scores(tmp_path):
    add(tmp_path, "naclip", "voc_21", 10.0, model={"image": TOWER | {"layers": 4}}, class_names={"file": "x"})
    lines = table(tmp_path, "voc_21")
    assert not any("reported" in line.lower() for line in lines)
    assert not any("packaged" in line for line in lines)
    assert len(lines) == 2 + len(compare_methods.ROWS) + 2


def test_results_of_two_checkpoints_are_no_table(tmp_path):
    add(tmp_path, "naclip", "voc_21", 10.0)
    add(tmp_path, "sclip", "voc_21", 10.0, checkpoint={"sha256": "other"})
    with pytest.raises(compare_methods.TableError, match="holds results of 2 checkpoints; use a --workdir for each"):
        table(tmp_path, "voc_21")


def test_every_method_runs_once_and_what_cannot_is_named(tmp_path, monkeypatch, capsys):
    calls = []

    def run(chosen, settings, root, workdir, read):
        calls.append((chosen.method, chosen.refine, settings.benchmarks, workdir))
        if chosen.method == "sc_clip":
            raise ValueError("sc_clip has published constants for towers of 12 blocks")
        add(tmp_path / "results", chosen.method, "voc_21", 1.0)
        return 0

    monkeypatch.setattr(compare_methods.evaluate_model, "run", run)
    arguments = ["--model", "clip", "--benchmark", "voc_21", "voc_20", "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        compare_methods.main([*arguments, "--output", str(tmp_path / "table.md")])
    assert caught.value.code == 1
    assert calls == [(*row, ("voc_21", "voc_20"), str(tmp_path)) for row in compare_methods.ROWS]
    printed = capsys.readouterr()
    assert printed.err == "failed: sc_clip: sc_clip has published constants for towers of 12 blocks\n"
    assert (tmp_path / "table.md").read_text() == printed.out
    assert "| naclip | 1.00 | not run |" in printed.out
    calls.clear()
    with pytest.raises(SystemExit) as caught:
        compare_methods.main([*arguments, "--only-table"])
    assert (caught.value.code, calls) == (0, [])
