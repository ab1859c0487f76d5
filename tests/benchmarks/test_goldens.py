"""What pytest's report says of the golden numbers, and a run of a few of their tests."""

import pytest

from benchmarks import goldens, report, results_file

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.models.test_a" name="test_one[x]" time="1.5" />
<testcase classname="tests.models.test_a" name="test_two" time="0"><failure message="error 2e-03">x</failure></testcase>
<testcase classname="tests.models.test_a" name="test_three" time="0"><skipped message="no golden numbers" /></testcase>
</testsuite></testsuites>"""


def test_report_by_hand():
    found = goldens.outcomes(REPORT)
    assert found["test_a::test_one[x]"] == {"outcome": "passed", "seconds": 1.5, "said": ""}
    assert found["test_a::test_two"] == {"outcome": "failure", "seconds": 0.0, "said": "error 2e-03"}
    assert goldens.summary(found) == {"passed": 1, "skipped": 1, "failed": ["test_a::test_two"]}


def test_tests_are_run_and_recorded(tmp_path, capfd):
    output = tmp_path / "goldens.json"
    command = ["--platform", "cpu", "--output", str(output), "--shared", str(tmp_path)]
    assert goldens.main([*command, "--only", "cayley_golden or full_size"]) == 0
    (record,) = results_file.read(output)
    assert record["passed"] >= 1
    assert record["skipped"] >= 5, "there are no full-size numbers"
    assert record["failed"] == []
    assert record["hardware"]["platform"] == "cpu"
    assert "jax" in record["versions"]
    assert set(report.blocks([record]).values()) == {"Not run."}


@pytest.mark.parametrize("path", goldens.TESTS)
def test_files_of_golden_tests_are_there(path):
    assert (goldens.ROOT / path).is_file()
