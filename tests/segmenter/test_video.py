"""Films: frames, times, overlays with the same sound, and files that only pretend to be films."""

import sys

import numpy as np
import pytest

from ahs_seg_jax.segmenter import video

av = pytest.importorskip("av")

from tests.support import films

GREYS = [np.full((36, 52, 3), 20 * number, np.uint8) for number in range(12)]


def sound_of(path):
    with av.open(str(path)) as file:
        return b"".join(bytes(packet) for packet in file.demux(audio=0))


def test_every_fifth_frame_with_its_time(tmp_path):
    path = films.write(tmp_path / "a.mp4", GREYS)
    found = list(video.frames(path, 5))
    assert [(frame.number, frame.seconds) for frame in found] == [(0, 0.0), (5, 0.5), (10, 1.0)]
    for frame in found:
        assert abs(frame.image.astype(int) - GREYS[frame.number]).max() <= 3
    assert [frame.number for frame in video.frames(path, 5, done=2)] == [10]
    assert video.size(path) == (36, 52)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_overlays_keep_times_and_sound(tmp_path, suffix):
    source, written = films.write(tmp_path / "a.mp4", GREYS), tmp_path / f"b{suffix}"
    numbers = []
    video.write_overlays(source, written, lambda number, image: numbers.append(number) or 255 - image[:35])
    assert numbers == list(range(12))
    found = list(video.frames(written))
    assert found[0].image.shape == (36, 52, 3)  # an odd height is made even
    assert [frame.seconds for frame in found] == pytest.approx([number / 10 for number in range(12)], abs=1e-3)
    assert abs(found[5].image.astype(int) - 155).max() <= 6
    assert sound_of(written) == sound_of(source)


def test_a_film_without_sound(tmp_path):
    source = films.write(tmp_path / "a.mp4", GREYS, sound=False)
    video.write_overlays(source, tmp_path / "b.mp4", lambda _, image: image)
    assert len(list(video.frames(tmp_path / "b.mp4"))) == 12


def test_what_is_no_film_is_refused_under_its_name(tmp_path, monkeypatch):
    films.write(tmp_path / "real.mp4", GREYS)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\nfile://{tmp_path}/real.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/real.mp4\n")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "real.mp4").read_bytes()[:500])
    (tmp_path / "empty.mp4").touch()
    for name in ("list", "concat", "cut", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.mp4 is no film that can be read, or it is damaged"):
            list(video.frames(tmp_path / f"{name}.mp4"))
    with pytest.raises(FileNotFoundError, match="no film at "):
        list(video.frames(tmp_path / "missing.mp4"))
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="52 x 36 = 0 megapixels; the limit is 0"):
        list(video.frames(tmp_path / "real.mp4"))


def test_without_pyav_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"films need PyAV, .*pip install 'ahs_seg_jax\[video\]'"):
        video.pyav()
    assert [video.is_video(name) for name in ("a.MP4", "b.mkv", "c.png")] == [True, True, False]
    assert [video.overlay_suffix(name) for name in ("a.MOV", "b.webm")] == [".mp4", ".mkv"]
