"""Ablation studies: the table by hand, the picture, the file."""

import numpy as np
import pytest

from scripts import ablation_study
from scripts.ablation_study import Outcome, Study

ABOUT = {"config": "configs/tiny.py", "steps": 7, "batch_size": 2}


def outcome(row: str, seed: int, miou: float, seen: float | None = None, unseen: float | None = None) -> Outcome:
    scores = {"mIoU": miou, "mIoU_seen": seen, "mIoU_unseen": unseen}
    about = {"protocol": "whole", "data": {"images": 11}, "hardware": {"devices": 1, "device": "cpu"}}
    return Outcome(row, seed, {"scores": scores, **about})


STUDY = Study(
    ABOUT,
    (
        outcome("all", 1, 15.5, 16.0),
        outcome("none", 1, 14.0, 14.0, 14.0),
        outcome("none", 0, 10.0, 12.0, 2.0),
    ),
)


def test_table_by_hand():
    assert ablation_study.table(STUDY).splitlines()[2:] == [
        "| none |  |  |  | 12.00 ± 2.83 | 13.00 ± 1.41 | 8.00 ± 8.49 |  | 2 |",
        "| all | x | x | x | 15.50 | 16.00 | - | 1.50 | 1 |",
    ]


def test_the_page_says_what_was_run_and_how_little_it_means():
    page = ablation_study.page(STUDY, "there/picture.png")
    for part in (
        "# Component ablation: a small-scale study",
        "`configs/tiny.py`, 7 steps of 2 images,\nseeds 0, 1; protocol `whole`, 11 images, 1 x cpu.",
        "Differences of the size of the spread mean nothing",
        "(there/picture.png)",
    ):
        assert part in page


def test_the_picture_marks_every_run():
    picture = np.asarray(ablation_study.plot(STUDY))
    blue = (picture == (0x30, 0x70, 0xB0)).all(axis=2)
    columns = np.flatnonzero(blue.any(axis=0))
    assert 1 + int((np.diff(columns) > 1).sum()) == 3


def test_the_file(tmp_path):
    ablation_study.write(STUDY, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.json", "ablation.md", "ablation.png"}
    assert Study.from_json((tmp_path / "ablation.json").read_text()) == STUDY


@pytest.mark.parametrize("text", ["[]", "{}", '{"about": {}, "outcomes": [{"row": "none", "seed": 0, "result": {}}]}'])
def test_other_files_are_no_study(text):
    with pytest.raises(ValueError, match="it holds no ablation study"):
        Study.from_json(text)


def test_the_last_results_file_counts_without_paths_and_classes():
    results = [
        {
            "checkpoint": {"path": "runs/me", "step": step, "sha256": "ab"},
            "classes": [],
            "pictures": {},
            "seconds": step,
        }
        for step in (4, 6, 2)
    ]
    found = ablation_study.outcome_of("mh_fpn", 3, results)
    assert found == Outcome("mh_fpn", 3, {"checkpoint": {"step": 6, "sha256": "ab"}, "seconds": 6})
