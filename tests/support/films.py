"""Small films that tests write; needs PyAV."""

import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

av = pytest.importorskip("av")


def write(path: pathlib.Path, images: Sequence[np.ndarray], rate: int = 10, sound: bool = True) -> pathlib.Path:
    """Images `[H, W, 3]` of even size as a film in H.264 (or MPEG-4), with a tone as its sound."""
    height, width, _ = images[0].shape
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as file:
        film = file.add_stream(codec, rate=rate)
        film.width, film.height, film.pix_fmt = width, height, "yuv420p"
        film.options = {"crf": "1"} if codec == "libx264" else {}
        tone = file.add_stream("aac", rate=16000) if sound else None
        for image in images:
            file.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(film.encode())
        if tone is not None:
            wave = np.sin(np.arange(16000 * len(images) // rate) / 20).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 16000, 0
            file.mux(tone.encode(samples))
            file.mux(tone.encode())
    return path
