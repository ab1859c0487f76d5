"""`ahs-seg segment film.mp4`: labels, overlays, areas; a stopped run goes on to the same result, smoothed or not."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import segment_files as segment
from ahs_seg_jax.cli import segment_video
from ahs_seg_jax.segmenter import Segmentation, Segmenter, read_png, video
from ahs_seg_jax.segmenter.words import Words
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.images import photo

NAMES = ("grass", "sand", "red toy")
SETTINGS = segment.Settings(NAMES, "tiny", None, "none", "model", None, every=2)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    pytest.importorskip("av")
    from tests.support import films

    whole = photo(96, 96)
    images = [np.ascontiguousarray(whole[4 * number : 4 * number + 36, 2 * number :][:, :52]) for number in range(11)]
    return films.write(tmp_path_factory.mktemp("film") / "clip.mp4", images)


def results(folder):
    labels = {path.name: read_png(path)[0] for path in sorted((folder / "labels" / "clip").glob("*.png"))}
    return labels, list(csv.reader((folder / "areas" / "clip.csv").read_text().splitlines()))


def test_a_film(film, tmp_path, capsys):
    assert segment.run([str(film)], tmp_path / "out", SETTINGS) == 0
    labels, table = results(tmp_path / "out")
    assert list(labels) == [f"{number:06d}.png" for number in (0, 2, 4, 6, 8, 10)]
    assert table[0] == ["frame", "seconds", "unknown", *NAMES]
    for row, (name, found) in zip(table[1:], labels.items(), strict=True):
        assert int(row[0]) == int(name[:6])
        assert float(row[1]) == pytest.approx(int(row[0]) / 10)
        assert [float(share) for share in row[3:]] == pytest.approx(
            [(found == index).mean() for index in range(3)], abs=1e-6
        )
    frames = list(video.frames(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert len(frames) == 11
    with Image.open(tmp_path / "out" / "areas" / "clip.png") as plot:
        assert plot.width > 640
    entry = json.loads((tmp_path / "out" / "summary.json").read_text())["images"][0]
    assert (entry["frames"], entry["height"], entry["width"]) == (6, 36, 52)
    assert sum(found["share"] for found in entry["classes"].values()) == pytest.approx(1, abs=1e-3)
    capsys.readouterr()
    assert segment.run([str(film)], tmp_path / "out", SETTINGS) == 0
    assert "done before" in capsys.readouterr().err
    assert segment.run([str(film)], tmp_path / "plan", SETTINGS, only_plan=True) == 0
    assert "52 x 36 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("smooth", [0.0, 0.6])
def test_a_stopped_run_goes_on_to_the_same_result(film, tmp_path, monkeypatch, smooth):
    settings = dataclasses.replace(SETTINGS, smooth=smooth)
    monkeypatch.setattr(segment_video, "SAVE_EVERY", 2)
    assert segment.run([str(film)], tmp_path / "whole", settings) == 0
    call, count = Segmenter.__call__, 0

    def stopped(*args, **options):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return call(*args, **options)

    monkeypatch.setattr(Segmenter, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        segment.run([str(film)], tmp_path / "parts", settings)
    with (tmp_path / "parts" / "labels" / "clip" / "frames.jsonl").open("a") as file:
        file.write('{"frame": 6, "sec')  # as a killed run leaves it
    assert segment.run([str(film)], tmp_path / "parts", settings) == 0
    assert count == 4 + (3 if not smooth else 4)  # of six frames, three were done; smoothed, two were noted
    (whole, table), (parts, other) = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert table == other
    assert list(whole) == list(parts)
    for name, labels in whole.items():
        np.testing.assert_array_equal(parts[name], labels)


def test_smoothing_by_hand():
    words = Words.of(Vocabulary(("a", "b")), 0.55)
    smoothing = segment_video.Smoothing(0.75, words)
    size = (1, 1)
    result = lambda a, b: Segmentation(
        np.zeros((*size, 3), np.uint8),
        np.zeros(size, np.int32),
        ("a", "b"),
        np.zeros(size, np.float32),
        np.array([a, b], np.float32).reshape(2, 1, 1),
    )
    assert smoothing(result(0.8, 0.2)).labels.item() == 0
    second = smoothing(result(0.0, 1.0))  # 0.6 and 0.4
    assert (second.labels.item(), second.confidence.item()) == (0, pytest.approx(0.6))
    third = smoothing(result(0.0, 1.0))  # 0.45 and 0.55 - rounded below the threshold or not, it is no longer a
    assert third.labels.item() in (1, -1)
    assert smoothing(result(0.0, 1.0)).labels.item() == 1  # 0.3375 and 0.6625


def test_what_films_cannot_have_is_said_before_the_first_image(film, tmp_path):
    for options, fields, text in (
        ({"annotations": ("coco",)}, {}, "--annotations is for images only; leave it out, or leave out"),
        ({"heat_maps": True}, {}, "--heat-maps is for images only"),
        ({}, {"every": 0}, "--every is 0; give 1 for every frame"),
        ({}, {"smooth": 1.0}, r"--smooth is 1\.0; it is the share of what was"),
        ({}, {"smooth": 0.5, "unknown": ("wall",)}, "--smooth takes the mean of the names' probabilities"),
    ):
        with pytest.raises(ValueError, match=text):
            segment.run([str(film)], tmp_path / "out", dataclasses.replace(SETTINGS, **fields), **options)
    assert not (tmp_path / "out").exists()
