"""The README's tables out of results files, and the check that every number in them has a file."""

import json

import pytest

from scripts import results_table

README = f"# Title\n\n{results_table.START}\n{results_table.END}\nafter\n"


def add(folder, run: str, benchmark: str, miou: float, **changes) -> None:
    content = {
        "benchmark": benchmark,
        "split": "val",
        "protocol": "cat_seg",
        "incomplete": [],
        "data": {"problems": []},
        "checkpoint": {"sha256": f"of {run}"},
        "scores": {"mIoU": miou, "mIoU_unseen": None},
    } | changes
    path = folder / run / f"{benchmark}_{content['split']}_{content['protocol']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def files(tmp_path):
    """Two runs, one benchmark in common, one quick score, one of another protocol; and a README with the markers."""
    results = tmp_path / "results"
    add(results, "base", "ade20k_150", 31.794)
    add(results, "base", "voc_20", 94.1, scores={"mIoU": 94.1, "mIoU_unseen": 90.046})
    add(results, "large", "ade20k_150", 37.9, incomplete=["quick mode: 100 of 2000 images"])
    add(results, "tiny", "scenes", 65.94, protocol="whole")
    (results / "table.json").write_text(
        json.dumps({"rows": {"large": "CAT-Seg L", "tiny": "tiny", "recipe": "ViT-B, published recipe"}})
    )
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def run(folder, *arguments: str) -> None:
    results_table.main([*arguments, f"--readme={folder / 'README.md'}", f"--results={folder / 'results'}"])


def failure(folder, code: int, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        run(folder, "--check")
    assert caught.value.code == code
    return capsys.readouterr().err


def test_tables(files):
    run(files)
    assert (files / "README.md").read_text() == "\n".join(
        [
            "# Title",
            "",
            "<!-- results -->",
            "Protocol `cat_seg` (windows and a global view, as in published scores), mIoU in percent:",
            "",
            "| run | ade20k_150 | voc_20 |",
            "|---|---|---|",
            "| CAT-Seg L | 37.90* | not run |",
            "| tiny | not run | not run |",
            "| ViT-B, published recipe | not run | not run |",
            "| base | 31.79 | 94.10 (unseen 90.05) |",
            "",
            "\\* ade20k_150, large: quick mode: 100 of 2000 images.",
            "",
            "Protocol `whole` (one view), mIoU in percent:",
            "",
            "| run | scenes |",
            "|---|---|",
            "| CAT-Seg L | not run |",
            "| tiny | 65.94 |",
            "| ViT-B, published recipe | not run |",
            "| base | not run |",
            "<!-- /results -->",
            "after",
            "",
        ]
    )
    run(files, "--check")
    run(files)
    run(files, "--check")


def test_a_number_without_a_file_fails_the_check(files, capsys):
    run(files)
    (files / "results" / "base" / "voc_20_val_cat_seg.json").unlink()
    printed = failure(files, 1, capsys)
    assert "base, voc_20 (Protocol `cat_seg`): the README says 94.10 (unseen 90.05), but no file holds it" in printed


def test_a_number_that_was_edited_fails_the_check(files, capsys):
    run(files)
    readme = files / "README.md"
    readme.write_text(readme.read_text().replace("31.79", "41.79"))
    assert "base, ade20k_150 (Protocol `cat_seg`): the README says 41.79, the files say 31.79" in failure(
        files, 1, capsys
    )


def test_a_file_that_the_readme_does_not_show_fails_the_check(files, capsys):
    assert "tiny, scenes (Protocol `whole`): the README says nothing, the files say 65.94" in failure(files, 1, capsys)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "README.md").write_text("# Title"), "README must hold <!-- results -->"),
        (lambda folder: (folder / "results" / "base" / "x.json").write_text("{}"), "x.json is no results file"),
        (lambda folder: add(folder / "results", "base", "voc_20", 1.0, split="test"), "are for the same cell"),
        (
            lambda folder: add(folder / "results", "base", "voc_20b", 1.0, checkpoint={"sha256": "others"}),
            "is of other weights than the other files of base",
        ),
        (
            lambda folder: add(folder / "results", "base", "voc_20b", 1.0, data={"problems": ["shifted"]}),
            "scores of bad data, or no score, belong in no table",
        ),
    ],
    ids=["markers", "no_result", "twice", "weights", "bad_data"],
)
def test_what_cannot_be_a_table(files, capsys, spoil, words):
    spoil(files)
    assert words in failure(files, 2, capsys)


def test_no_results_at_all(tmp_path):
    (tmp_path / "README.md").write_text(README)
    run(tmp_path)
    assert f"{results_table.START}\nNothing has been run yet.\n" in (tmp_path / "README.md").read_text()
    run(tmp_path, "--check")
