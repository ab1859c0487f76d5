"""Tables by hand from a small results file, and nothing on the page that no file holds."""

import json
import pathlib

import pytest

from benchmarks import fit, report

HARDWARE = {"platform": "cpu", "device": "cpu", "devices": 1, "cores": 2, "processor": "Some CPU"}
PAGE = "# Speed\n" + "".join(
    f"<!-- {n} -->\nold\n<!-- end {n} -->\n" for n in ("benchmarks", "scaling", "side by side", "steps", "tpu")
)


def record(name: str, seconds: float, **changes):
    settings = {"size": "tiny", "dtype": "float32", "batch": 4, "train_classes": 20, "classes": 30}
    return {
        "name": name,
        "key": name,
        "title": "training step",
        "series": "",
        "amount": 0,
        "settings": settings,
        "hardware": HARDWARE,
        "seconds": {"median": seconds, "quartiles": [0.9 * seconds, 1.1 * seconds]},
        "throughput": 4 / seconds,
        "unit": "images",
        "flops": 5e9,
        "flops_per_second": 5e9 / seconds,
        "ceiling_share": 0.25,
        "roofline": {"seconds": 0.2, "bound_by": "matrix", "share": 0.4},
        "peak_memory": {"process_bytes": 1.5e9, "device_bytes": None},
        "compiles": {"before": 1, "timed": 0},
        **changes,
    }


def point(amount: float, seconds: float, gigabytes: float):
    memory = {"process_bytes": gigabytes * 1e9, "device_bytes": None}
    return record(f"scaling_{amount}", seconds, series="classes", amount=amount, peak_memory=memory)


SIDE = {
    "name": "side_by_side_training",
    "key": "side",
    "settings": {"dtype": "float32", "names": 171},
    "hardware": HARDWARE,
    "published": {"median": 57.0, "peak_bytes": 19.4e9, "flops": 4.12e12},
    "ours": {"median": 19.0, "peak_bytes": 7.7e9, "flops": 1.9e12},
    "times_faster": 3.0,
    "times_less_processor_time": 2.5,
    "memory_share": 0.397,
    "flops_share": 0.461,
}
STEP = {
    "name": "step_sums",
    "key": "step_sums",
    "title": "sums",
    "predicted": "half",
    "of": "a layer",
    "before": 683,
    "after": 53.6,
    "unit": "ms",
    "kept": False,
    "hardware": HARDWARE,
}
START = {
    "cold": {"process": 30.0, "load": 4.0, "first": 25.0, "second": 0.5},
    "warm": [{"process": p, "load": 4.0, "first": p - 4, "second": 0.5} for p in (11.0, 10.0, 12.0)],
    "warm_share": {"process": 11 / 30, "first_result": 7 / 25},
}


@pytest.fixture
def files(tmp_path: pathlib.Path):
    """A results file, and a page with the markers."""
    records = [
        record("train_step", 0.5),
        record("start_up", 11.0, flops=None, unit="starts", title="first picture", **START),
        *(point(amount, 0.1 * amount, 0.5 + 0.01 * amount) for amount in (10, 100, 1000)),
        {"name": "train_forward", "key": "failed", "settings": {}, "error": "killed"},
        SIDE,
        STEP,
    ]
    (tmp_path / "results.json").write_text(json.dumps({"records": records}))
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path


def test_exponents_by_hand():
    assert fit.exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert fit.exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    assert fit.exponent([1, 4, 16], [7, 7, 7]) == pytest.approx(0)
    # log10 values 0, 0, 1 at 0, 1, 2: the slope is one half.
    assert fit.exponent([1, 10, 100], [1, 1, 10]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two different amounts"):
        fit.exponent([2, 2], [1, 3])
    with pytest.raises(ValueError, match="positive"):
        fit.exponent([0, 2], [1, 3])


def test_page_from_files(files):
    pytest.importorskip("matplotlib")
    report.main([str(files / "results.json"), "--page", str(files / "page.md")])
    page = (files / "page.md").read_text()
    assert "old" not in page
    assert "### tiny, float32, 2 cores of Some CPU" in page
    row = next(line for line in page.splitlines() if line.startswith("| training step (batch 4, 20 classes)"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["500 ms", "10 %", "8 images/s"]
    assert cells[4:9] == ["5", "10", "25 %", "200 ms (matrix)", "40 %"]
    assert cells[9:] == ["1.50 GB", "1 + 0"]
    assert "| classes | 10 to 1000 | 1 s to 100 s | 1.00 | 1.00 | 0.60 to 10.50 GB |" in page
    assert "| second | 11 s | 4 s | 7 s | 500 ms |" in page
    assert "| training (171 classes) | 57 s | 19 s | 3.00 | 2.50 | 19.4 GB | 7.7 GB | 0.40 | 0.46 |" in page
    assert "| sums | half | a layer | 683 | 53.6 | ms | not kept |" in page
    assert (files / "images" / "performance.png").stat().st_size > 5000


def test_nothing_measured_says_so(files):
    page = report.marked(PAGE, report.blocks([]))
    assert page.count("Not run.") == 5
    assert not report.plot([], files / "none.png")
    assert not (files / "none.png").exists()


def test_errors_say_what_lacks(files):
    with pytest.raises(ValueError, match="no lines <!-- scaling -->"):
        report.marked("nothing", {"scaling": "x"})
    (files / "broken.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"broken\.json is not a results file"):
        report.main([str(files / "broken.json"), "--page", str(files / "page.md")])


def test_page_of_the_repository_has_the_markers():
    page = report.PAGE.read_text()
    assert report.marked(page, dict.fromkeys(report.blocks([]), "x"))
    assert report.marked(report.README.read_text(), {"speed": "x"})
