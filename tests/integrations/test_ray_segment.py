"""The Ray Data job: what its parts are; and on a cluster of two workers, one of which is killed."""

import importlib.util
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

pq = pytest.importorskip("pyarrow.parquet")

from integrations import ray_segment
from integrations.ray_segment import Worker, find_parts
from tests.support import ROOT

NAMES = ("grass", "sand", "red toy")


def encoded(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (37, 41, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def folder(place, count, broken=()):
    for number in range(count):
        path = place / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if number in broken else encoded(number))
    return place


def table(file, numbers, rows_of_a_group):
    columns = {"id": [f"t/{number}" for number in numbers], "picture": [encoded(number) for number in numbers]}
    file.parent.mkdir(exist_ok=True)
    pq.write_table(ray_segment.pa.table(columns), file, row_group_size=rows_of_a_group)


def shard(file, numbers):
    with tarfile.open(file, "w") as tar:
        for number in numbers:
            for suffix, data in (("png", encoded(number)), ("txt", b"a caption")):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_parts_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_segment, "IMAGES_OF_A_PART", 5)
    place = folder(tmp_path, 30)
    parts = find_parts(str(place))
    assert {part.key[-9:] for part in parts} == {"-of-00008"}
    assert sorted(name for part in parts for name, _ in part.entries) == sorted(f"{n % 3}/{n}" for n in range(30))
    assert find_parts(str(place)) == parts
    (place / "0" / "3.png").write_bytes(encoded(99))
    changed = find_parts(str(place))
    assert [new.entries for new in changed] == [old.entries for old in parts]
    assert sum(new.digest != old.digest for new, old in zip(changed, parts, strict=True)) == 1


def test_parts_of_tables_and_shards(tmp_path):
    table(tmp_path / "tables" / "a.parquet", range(7), 3)
    table(tmp_path / "tables" / "b.parquet", range(7, 9), 3)
    parts = find_parts(str(tmp_path / "tables"))
    assert [part.row_group for part in parts] == [0, 1, 2, 0]
    found = [list(part.images(("id", "picture"))) for part in parts]
    assert [name for part in found for name, _ in part] == [f"t/{number}" for number in range(9)]
    assert found[2][0][1] == encoded(6)
    shard(tmp_path / "c.tar", (4, 5))
    (part,) = find_parts(str(tmp_path / "c.tar"))
    assert dict(part.images(("", ""))) == {"000004": encoded(4), "000005": encoded(5)}


def test_a_worker_writes_rows_and_labels(tmp_path):
    place, output = folder(tmp_path / "in", 4, broken=(2,)), tmp_path / "out"
    (place / "0" / "3.jpg").write_bytes(encoded(3))
    (part,) = find_parts(str(place))
    (output / "parts").mkdir(parents=True)
    row = {"part": json.dumps(ray_segment.dataclasses.asdict(part))}
    assert Worker(str(output), "tiny", NAMES, "png", ("", ""))(row) == {"key": part.key, "images": 5, "failed": 2}
    assert ray_segment._is_done(output, part)
    assert sorted(path.relative_to(output / "labels").as_posix() for path in output.rglob("*.png")) == [
        "0/0.png",
        "0/3.png",
        "1/1.png",
    ]
    summary = ray_segment._summary(output, [part])
    assert (summary["images"], [failed["image"] for failed in summary["failed"]]) == (5, ["0/3", "2/2"])
    assert "called 0/3" in summary["failed"][0]["reason"]
    Worker(str(output), "tiny", NAMES, "rle", ("", ""))(row)
    rows = pq.read_table(output / "parts" / f"{part.key}.parquet").to_pylist()
    good = [json.loads(found["rle"]) for found in rows if not found["error"]]
    assert [sum(entry["area"] for entry in found) for found in good] == [37 * 41] * 3


def test_names_stay_in_the_folder():
    assert ray_segment._inside("a/b") == pathlib.PurePosixPath("a/b")
    for name in ("../a", "/a", "a/../../b", ""):
        with pytest.raises(ValueError, match="is not the name of a file below a folder"):
            ray_segment._inside(name)


def workers_of(process):
    """Process ids of the job's workers, from the system's table."""
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().replace(b"\0", b" ")
            environment = (status.parent / "environ").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::") and f"RAY_TEST_OF={process}".encode() in environment and b"Map" in words:
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
def test_one_of_two_workers_is_killed_and_nothing_is_lost_or_there_twice(tmp_path):
    if importlib.util.find_spec("ray") is None or not pathlib.Path("/proc/self/environ").exists():
        pytest.skip("needs ray, and Linux")
    place, output = folder(tmp_path / "in", 300, broken=(7, 200)), tmp_path / "out"
    code = "from integrations import ray_segment as job; job.IMAGES_OF_A_PART = 8; raise SystemExit(job.main())"
    command = [sys.executable, "-c", code, str(place), str(output), "--classes", ";".join(NAMES), "--workers", "2"]
    mark = str(os.getpid())
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "RAY_TEST_OF": mark,
        "RAY_memory_usage_threshold": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    log, killed = tmp_path / "log", []
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if not killed and len(list(output.glob("parts/*.parquet"))) >= 4:
                workers = workers_of(mark)
                assert len(workers) == 2, log.read_text()
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.05)
        assert process.wait(timeout=10) == 1, log.read_text()  # two images are broken
    assert killed, log.read_text()
    rows = [row for file in output.glob("parts/*.parquet") for row in pq.read_table(file).to_pylist()]
    assert sorted(row["name"] for row in rows) == sorted(f"{number % 3}/{number}" for number in range(300))
    assert len(list((output / "labels").rglob("*.png"))) == 298
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 300
    assert sorted(failed["image"] for failed in summary["failed"]) == ["1/7", "2/200"]

    # Continued: what is done stays as it is, and what is missing is made.
    files = sorted(output.glob("parts/*.parquet"))
    before = {file.name: file.stat().st_mtime_ns for file in files}
    files[3].unlink()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert f"{len(files) - 1} of {len(files)} parts were done before" in done.stdout
    after = {file.name: file.stat().st_mtime_ns for file in output.glob("parts/*.parquet")}
    assert {name for name in before if after[name] != before[name]} == {files[3].name}
    assert json.loads((output / "summary.json").read_text()) == summary
