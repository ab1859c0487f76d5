"""`ahs-seg segment` in parts, from and to buckets, and after a kill: nothing lost, nothing twice, one summary."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import segment_files as segment
from ahs_seg_jax.cli.image_jobs import Shard, find_images
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.segmenter import read_png
from ahs_seg_jax.storage import paths
from tests.support import buckets
from tests.support.processes import free_port, wait_until_it_listens

NAMES = ("grass", "sand", "red toy")
SETTINGS = Settings(NAMES, "tiny", None, "none", "model", None)


def draw(folder, count):
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{'deep/' if number % 2 else ''}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (37, 41, 3), np.uint8)).save(path)
    return folder


def images_of(summary):
    """Its entries, by name, without what depends on the place."""
    return {entry.pop("name"): entry for entry in json.loads(summary)["images"]}


def test_parts_make_the_results_of_the_whole(tmp_path, capsys):
    folder = draw(tmp_path / "in", 6)
    (folder / "broken.png").write_bytes(b"")
    assert segment.run([str(folder)], tmp_path / "whole", SETTINGS, overlays=False) == 1
    codes = [
        segment.run([str(folder)], tmp_path / "parts", SETTINGS, overlays=False, shard=Shard(number, 3))
        for number in (2, 3, 1)
    ]
    assert sorted(codes) == [0, 0, 1]
    said = capsys.readouterr().err
    assert "part 2 of 3; the summary waits for the parts 1, 3" in said
    assert "part 3 of 3; the summary waits for the parts 1\n" in said
    assert "part 1 of 3; the summary is of all parts" in said
    whole, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole["images"]) == 6
    assert [failed["image"] for failed in whole["failed"]] == [str(folder / "broken.png")]
    for entry in whole["images"]:
        first, second = (read_png(tmp_path / name / "labels" / f"{entry['name']}.png") for name in ("whole", "parts"))
        np.testing.assert_array_equal(first[0], second[0])
    other = Settings(("grass",), "tiny", None, "none", "model", None)
    with pytest.raises(ValueError, match="holds results with another classes; choose another --output"):
        segment.run([str(folder)], tmp_path / "parts", other, shard=Shard(1, 3))


def test_what_cannot_lie_in_a_bucket_is_said_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match=r"the output is az://x; it can be a folder on a disk, or gs://.* or s3://"):
        segment.run([str(tmp_path)], "az://x", SETTINGS)
    with pytest.raises(
        ValueError, match=r"the images' place is http://x/a.png; it can be a folder on a disk, or gs://"
    ):
        find_images(["http://x/a.png"])


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """A stand-in for S3 on this machine, with a bucket of the name it yields."""
    fsspec, _ = pytest.importorskip("fsspec"), pytest.importorskip("s3fs")
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto[server]")
    port, log = free_port(), tmp_path / "moto"
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with log.open("w") as file, subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file) as server:
        wait_until_it_listens(server, port, log)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("corpus")
        yield "corpus"
        server.kill()


def test_from_a_bucket_to_a_bucket(s3, tmp_path, capsys):
    folder = draw(tmp_path / "in", 4)
    source, output = paths.location(f"s3://{s3}/in"), f"s3://{s3}/out"
    for path in folder.rglob("*.png"):
        (source / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    (source / "note.txt").write_bytes(b"no image")
    assert [job.name.as_posix() for job in find_images([str(source)])] == ["0", "2", "deep/1", "deep/3"]
    assert [job.name.as_posix() for job in find_images([f"{source}/*.png", f"{source}/0.png"])] == ["0", "2"]
    with pytest.raises(ValueError, match=r"s3://corpus/none holds no images"):
        find_images([f"s3://{s3}/none"])

    assert segment.run([str(folder)], tmp_path / "here", SETTINGS) == 0
    assert segment.run([str(source)], output, SETTINGS, heat_maps=True) == 0
    there = images_of((paths.location(output) / "summary.json").read_text())
    here = images_of((tmp_path / "here" / "summary.json").read_text())
    assert {name: entry["classes"] for name, entry in there.items()} == {n: e["classes"] for n, e in here.items()}
    assert there["0"]["image"] == f"{source}/0.png"
    for name in here:
        copy = tmp_path / "copy.png"
        copy.write_bytes((paths.location(output) / "labels" / f"{name}.png").read_bytes())
        np.testing.assert_array_equal(read_png(copy)[0], read_png(tmp_path / "here" / "labels" / f"{name}.png")[0])
    assert len(list((paths.location(output) / "heat_maps" / "deep" / "1").iterdir())) == 3

    # Another image of the same name, and one whose labels are gone: these are segmented again.
    (source / "0.png").write_bytes((folder / "2.png").read_bytes())
    (paths.location(output) / "labels" / "2.png").unlink()
    capsys.readouterr()
    assert segment.run([str(source)], output, SETTINGS, heat_maps=True) == 0
    assert capsys.readouterr().err.count("done before") == 2
    again = images_of((paths.location(output) / "summary.json").read_text())
    assert again["0"]["classes"] == again["2"]["classes"] == there["2"]["classes"]
    assert segment.run([str(source)], output, SETTINGS, only_plan=True) == 0


COPY = """
import pathlib, sys
from etils import epath
for path in pathlib.Path(sys.argv[1]).rglob("*.png"):
    (epath.Path(sys.argv[2]) / path.relative_to(sys.argv[1]).as_posix()).write_bytes(path.read_bytes())
"""
FETCH = """
import pathlib, sys
from etils import epath
from ahs_seg_jax.storage import paths
for address, _ in paths.objects(sys.argv[1]):
    path = pathlib.Path(sys.argv[2], address.removeprefix(sys.argv[1] + "/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(epath.Path(address).read_bytes())
"""


@pytest.mark.slow
def test_two_processes_fill_a_folder_in_google_s_storage(tmp_path):
    folder = draw(tmp_path / "in", 6)
    assert segment.run([str(folder)], tmp_path / "here", SETTINGS, overlays=False) == 0
    command = [sys.executable, "-m", "ahs_seg_jax", "segment", "gs://bucket/in", "--output", "gs://bucket/out"]
    command += ["--classes", ";".join(NAMES), "--no-overlays"]
    with buckets.google_cloud_storage() as environment:
        run = lambda *words: subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        done = run(sys.executable, "-c", COPY, str(folder), "gs://bucket/in")
        assert done.returncode == 0, done.stderr
        parts = [run(*command, "--shard", part) for part in ("2/2", "1/2", "1/2")]
        assert [part.returncode for part in parts] == [0, 0, 0], parts
        assert "part 2 of 2; the summary waits for the parts 1\n" in parts[0].stderr
        assert "part 1 of 2; the summary is of all parts" in parts[1].stderr
        assert parts[2].stderr.count("done before") == sum(
            Shard(1, 2).holds(job.name.as_posix()) for job in find_images([str(folder)])
        )
        done = run(sys.executable, "-c", FETCH, "gs://bucket/out", str(tmp_path / "there"))
        assert done.returncode == 0, done.stderr
    here, there = (images_of((tmp_path / name / "summary.json").read_text()) for name in ("here", "there"))
    assert {name: entry["classes"] for name, entry in there.items()} == {n: e["classes"] for n, e in here.items()}
    assert len(there) == 6
    for name in here:
        first, second = (read_png(tmp_path / place / "labels" / f"{name}.png")[0] for place in ("here", "there"))
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_killed_again_and_again_it_loses_nothing(tmp_path):
    folder, output = draw(tmp_path / "in", 120), tmp_path / "out"
    command = [sys.executable, "-m", "ahs_seg_jax", "segment", str(folder), "--output", str(output), "--no-overlays"]
    command += ["--classes", ";".join(NAMES)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    log = output / "results.jsonl"
    seen = 0
    for _ in range(2):
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while len(log.read_bytes().splitlines() if log.exists() else []) < seen + 20:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        seen = len(log.read_bytes().splitlines())
        assert seen < 120
        assert not json.loads((output / "summary.json").read_text())["finished"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert seen - 2 <= done.stderr.count("done before") <= seen  # at most the line that each kill cut off
    summary = json.loads((output / "summary.json").read_text())
    assert summary["finished"]
    assert len({entry["name"] for entry in summary["images"]}) == len(summary["images"]) == 120
    assert len(list((output / "labels").rglob("*.png"))) == 120
