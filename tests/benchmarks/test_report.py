"""Tables by hand from a small results file, and nothing on the page that no file holds."""

import json
import pathlib

import pytest

from benchmarks import report, results_file
from benchmarks.published import free_page

HARDWARE = {"platform": "cpu", "device": "cpu", "devices": 1, "cores": 2, "processor": "Some CPU"}
PAGE = "# Speed\n" + "".join(
    f"<!-- {n} -->\nold\n<!-- end {n} -->\n" for n in ("benchmarks", "scaling", "side by side", "tpu")
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
    "peers": {
        "compiled": {
            "median": 47.5,
            "peak_bytes": 15.4e9,
            "times_faster": 2.5,
            "times_less_processor_time": 2.25,
            "memory_share": 0.5,
        }
    },
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
CURVE = {
    "name": "curve_same_catseg",
    "key": "curve_same_catseg",
    "settings": {"updates": 3, "batch": 2},
    "published": [[0.75, 0.625, 0.5]],
    "ours": [[0.75, 0.625, 0.5]],
    "largest_first": 1.26e-6,
    "largest": 2e-5,
    "at_last": 1e-5,
    "moved": [0.75, 0.625, 0.5],
    "largest_of_rounding_first": 3e-5,
    "largest_of_rounding": 4e-5,
    "hardware": HARDWARE,
}
LOADING = {"imports": 1.0, "weights": 2.5, "words": 0.25, "second": 0.5}
START = {
    "cold": LOADING | {"process": 30.0, "first": 25.0, "beyond": 29.5},
    "warm": [LOADING | {"process": p, "first": p - 4, "beyond": p - 0.5} for p in (11.0, 10.0, 12.0)],
    "warm_share": {"process": 11 / 30, "first_result": 7 / 25},
}


FREE = {
    "name": "free_goldens",
    "key": "free",
    "settings": {"model": "2 blocks"},
    "cases": {"naclip": {"resized": 1, **dict.fromkeys(free_page.STAGES, 1.26e-06), "labels": 0.9995}},
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
        CURVE,
        FREE,
    ]
    (tmp_path / "results.json").write_text(json.dumps({"records": records}))
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path


def test_what_was_measured_again_stands_once():
    other = {**HARDWARE, "cores": 32}
    first = [record("train_step", 0.5), record("whole", 1.0), point(10, 1.0, 0.5), point(100, 2.0, 0.5), SIDE]
    again = [record("train_step", 0.25, key="another"), record("train_step", 0.1, hardware=other), STEP]
    found = report.newest([*first, *again, {**SIDE, "times_faster": 4.0}])
    assert [one.get("seconds", {}).get("median") for one in found] == [0.25, 1.0, 1.0, 2.0, None, 0.1, None]
    assert found[4]["times_faster"] == 4.0
    assert "0.25 s" in report.blocks(found)["benchmarks"] or "250 ms" in report.blocks(found)["benchmarks"]


def test_exponents_by_hand():
    assert report.exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert report.exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    assert report.exponent([1, 4, 16], [7, 7, 7]) == pytest.approx(0)
    # log10 values 0, 0, 1 at 0, 1, 2: the slope is one half.
    assert report.exponent([1, 10, 100], [1, 1, 10]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two different amounts"):
        report.exponent([2, 2], [1, 3])
    with pytest.raises(ValueError, match="positive"):
        report.exponent([0, 2], [1, 3])


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
    assert "| second | 11 s | 1 s | 2.5 s | 250 ms | 7 s | 500 ms | 10.5 s |" in page
    assert "| training (171 classes) | 57 s | 19 s | 3.00 | 2.50 | 19.4 GB | 7.7 GB | 0.40 | 0.46 |" in page
    row = "| training (171 classes), published under torch.compile | 47.5 s | 19 s | 2.50 | 2.25 | 15.4 GB | 7.7 GB |"
    assert f"{row} 0.50 |  |" in page
    assert "53.6" not in page  # the steps have a page of their own
    assert (files / "images" / "performance.png").stat().st_size > 5000


def test_nothing_measured_says_so(files):
    assert set(report.blocks([]).values()) == {"Not run."}
    assert report.pages(report.blocks([]), files / "page.md")[files / "page.md"].count("Not run.") == 4
    assert not report.plot([], files / "none.png")
    assert not (files / "none.png").exists()


def test_errors_say_what_lacks(files):
    with pytest.raises(ValueError, match="no lines <!-- scaling -->"):
        results_file.marked("nothing", {"scaling": "x"})
    (files / "broken.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"broken\.json is not a results file"):
        report.main([str(files / "broken.json"), "--page", str(files / "page.md")])


@pytest.fixture
def repository(files, monkeypatch):
    """The pages of a repository, made from the results file."""
    paths = {"PAGE": files / "page.md", "STEPS_PAGE": files / "steps.md", "README": files / "README.md"}
    paths |= {"CURVES_PAGE": files / "curves.md", "FREE_PAGE": files / "free.md"}
    (files / "free.md").write_text("<!-- training-free -->\n<!-- end training-free -->\n")
    (files / "curves.md").write_text("<!-- curves -->\n<!-- end curves -->\n")
    (files / "steps.md").write_text("<!-- steps -->\n<!-- end steps -->\n")
    (files / "README.md").write_text("<!-- speed -->\n<!-- end speed -->\n")
    for name, path in paths.items():
        monkeypatch.setattr(report, name, path)
    return paths


def test_check_compares_every_page_with_the_files(repository, files, capsys):
    command = [str(files / "results.json"), "--page", str(files / "page.md")]
    before = {path: path.read_text() for path in repository.values()}
    assert report.main([*command, "--check"]) == 1
    assert {path: path.read_text() for path in repository.values()} == before
    assert not (files / "images").exists()
    assert report.main(command) == 0
    assert report.main([*command, "--check"]) == 0
    assert "| sums | half | a layer | 683 | 53.6 | ms | not kept |" in (files / "steps.md").read_text()
    assert "| training (171 classes) | 57 s | 19 s |" in (files / "README.md").read_text()
    assert (
        "| catseg | 3 | 2 | 0.7500 to 0.5000 | 1.3e-06 | 2.0e-05 | 1.0e-05 | 0.0e+00 | 3.0e-05 | 4.0e-05 | 0.0e+00 |"
        in (files / "curves.md").read_text()
    )
    line = "| 2 blocks | naclip | the same | 1.3e-06 | 1.3e-06 | 1.3e-06 | 1.3e-06 | 1.3e-06 | 99.950 % |"
    assert line in (files / "free.md").read_text()
    capsys.readouterr()
    for path in repository.values():
        right = path.read_text()
        path.write_text(right.replace("53.6", "5.36").replace("57 s", "75 s").replace("e-06", "e-07"))
        assert report.main([*command, "--check"]) == 1
        said = capsys.readouterr().err
        assert f"{path} differs from the files it is made from:\n- |" in said
        assert "run python -m benchmarks.report" in said
        path.write_text(right)


def test_pages_of_the_repository_are_made_from_its_files():
    assert report.main(["--check"]) == 0
