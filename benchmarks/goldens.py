"""Runs the tests against the published programs' golden numbers on the devices at hand, and records what they said.

    python -m benchmarks.goldens --platform cuda --shared FOLDER --output benchmarks/results/gpu_goldens.json

These are the tests of the repository, which otherwise run on a CPU: float32 must hold to 1e-4 of the largest value on
every platform, which needs products in full precision, and bfloat16 within what its test allows. They need pytest.
FOLDER holds golden/ with the full-size numbers; without it only the small ones are compared. A record counts the tests
and names those that failed, with the hardware and the versions.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from benchmarks import results_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "goldens"
TESTS = (
    "tests/models/test_aggregator.py",
    "tests/models/test_orthogonal.py",
    "tests/models/test_mh_fpn.py",
    "tests/models/test_dc_hsp.py",
    "tests/models/test_full_size.py",
    "tests/inference/test_training_free_goldens.py",
)
OUTCOMES = ("failure", "error", "skipped")
ABOUT = (
    "import json; from benchmarks import machine; from ahs_seg_jax.versions import code_hash, versions; "
    "print(json.dumps({'hardware': machine.describe(), 'versions': versions(), 'code': code_hash()}))"
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.goldens", description=__doc__.splitlines()[0])
    parser.add_argument("--platform", choices=("cpu", "cuda", "tpu"), required=True)
    parser.add_argument("--shared", type=pathlib.Path, help="folder with golden/ and its full-size numbers")
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="tests whose names match, as pytest's -k")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="results file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tests, writes the record; returns 0 if some ran and none failed."""
    options = parse(argv)
    environment = os.environ | {"JAX_PLATFORMS": options.platform}
    if options.shared:
        environment["AHS_SEG_SHARED"] = str(options.shared.resolve())
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        # Warnings of another platform or version are no difference in numbers.
        command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "--durations=0", f"--junitxml={report}"]
        command += ["-k", options.only] * bool(options.only)
        subprocess.run([*command, *TESTS], check=False, cwd=ROOT, env=environment)
        if not report.is_file():
            print("error: pytest wrote no report; its last lines say why", file=sys.stderr)
            return 1
        found = outcomes(report.read_text())
    about = subprocess.run(
        [sys.executable, "-c", ABOUT], check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    record = {
        "key": results_file.key(NAME, {"platform": options.platform, "only": options.only}),
        "name": NAME,
        **json.loads(about.stdout.splitlines()[-1]),
        **summary(found),
        "tests": found,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    results_file.add(options.output, record)
    print(f"{options.output}: {record['passed']} passed, {len(record['failed'])} failed, {record['skipped']} skipped")
    return int(bool(record["failed"]) or not record["passed"])


def outcomes(report: str) -> dict[str, dict[str, Any]]:
    """Of each test in pytest's XML report: passed | failure | error | skipped, its seconds, and what it said."""
    found: dict[str, dict[str, Any]] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        said = next((child for child in case if child.tag in OUTCOMES), None)
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        found[name] = {
            "outcome": "passed" if said is None else said.tag,
            "seconds": float(case.get("time", "0")),
            "said": "" if said is None else said.get("message", ""),
        }
    return found


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many tests passed and were skipped, and the names of those that failed."""
    by = lambda *kinds: [name for name, test in found.items() if test["outcome"] in kinds]
    return {"passed": len(by("passed")), "skipped": len(by("skipped")), "failed": by("failure", "error")}


if __name__ == "__main__":
    sys.exit(main())
