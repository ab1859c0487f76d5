"""The page of the ablation study says what its file holds, and nothing else."""

import pytest

from scripts import ablation_page
from tests.scripts.test_ablation_study import STUDY


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "ablation.json").write_text(STUDY.to_json())
    arguments = [f"--study={tmp_path / 'ablation.json'}", f"--page={tmp_path / 'docs.md'}"]
    assert ablation_page.main(arguments) == 0
    return arguments


def test_what_it_writes_it_accepts(arguments, tmp_path):
    assert ablation_page.main([*arguments, "--check"]) == 0
    assert (tmp_path / "images" / "ablation.png").is_file()


def test_another_number_is_refused(arguments, tmp_path, capsys):
    page = tmp_path / "docs.md"
    page.write_text(page.read_text().replace("15.50", "51.50"))
    assert ablation_page.main([*arguments, "--check"]) == 1
    said = capsys.readouterr().err
    assert "docs.md does not say what" in said
    assert "\n| all | x | x | x | 15.50 | 16.00 | - | 1.50 | 1 |\n" in said
    assert "51.50" in page.read_text()  # nothing was changed
    page.unlink()
    assert ablation_page.main([*arguments, "--check"]) == 1


def test_without_a_study(arguments, tmp_path, capsys):
    (tmp_path / "ablation.json").write_text("{}")
    assert ablation_page.main(arguments) == 2
    assert "ablation.json: it holds no ablation study" in capsys.readouterr().err
    (tmp_path / "ablation.json").unlink()
    assert ablation_page.main([*arguments, "--check"]) == 2  # a page without a file
    (tmp_path / "docs.md").unlink()
    assert ablation_page.main([*arguments, "--check"]) == 0
