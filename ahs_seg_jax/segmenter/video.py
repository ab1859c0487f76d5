"""Films: frames in, as a viewer shows them, and a film of overlays out that keeps the sound; the extra `video` (PyAV).

FFmpeg, which PyAV calls, would follow a play list to other files and addresses under any name. Here it reads the
containers of CONTAINERS only, and nothing but the file itself.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ahs_seg_jax.data.open_image import MAX_PIXELS, check_size

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
ONLY_THE_FILE = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
_MP4 = frozenset({".mp4", ".m4v", ".mov"})


def pyav() -> Any:
    """The library. Raises ImportError, which says what to install."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("films need PyAV, which is not installed: pip install 'ahs_seg_jax[video]'") from error


def is_video(path: str | os.PathLike[str]) -> bool:
    """By the file's name."""
    return pathlib.PurePath(path).suffix.lower() in SUFFIXES


def overlay_suffix(path: str | os.PathLike[str]) -> str:
    """Of the film of overlays: a container that takes any sound that the file's own takes."""
    return ".mp4" if pathlib.PurePath(path).suffix.lower() in _MP4 else ".mkv"


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame as it is shown."""

    number: int  # from 0
    seconds: float  # from the film's beginning
    image: np.ndarray  # uint8 RGB [H, W, 3]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first film. Raises ImportError, FileNotFoundError or ValueError for what cannot be read."""
    library = pyav()
    if not path.is_file():
        raise FileNotFoundError(f"no film at {path}")
    try:
        with library.open(str(path.absolute()), container_options=ONLY_THE_FILE) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no film, only {len(container.streams)} other stream(s)")
            stream = container.streams.video[0]
            check_size(stream.width, stream.height, str(path), MAX_PIXELS)
            stream.thread_type = "AUTO"
            yield container, stream
    except library.error.FFmpegError as error:
        raise ValueError(f"{path} is no film that can be read, or it is damaged ({error}); copy it again") from error


def _shown(frame: Any) -> np.ndarray:
    """uint8 RGB `[H, W, 3]`, turned as the film says."""
    turns = round(getattr(frame, "rotation", 0) / 90)  # counterclockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def frames(path: str | os.PathLike[str], every: int = 1, done: int = 0) -> Iterator[Frame]:
    """Every `every`-th frame, from frame 0; the first `done` of these are passed over. One is in memory at a time.

    Raises ImportError without PyAV, FileNotFoundError or ValueError for what cannot be read.
    """
    with _opened(pathlib.Path(path)) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number % every == 0 and number // every >= done:
                yield Frame(number, _seconds(frame, stream), _shown(frame))


def size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w) of the first frame as it is shown. Raises as `frames`."""
    for frame in frames(path):
        return frame.image.shape[0], frame.image.shape[1]
    raise ValueError(f"{path} holds no frames; copy or download it again")


def _seconds(frame: Any, stream: Any) -> float:
    start = stream.start_time or 0
    return float((frame.pts - start) * frame.time_base) if frame.pts is not None else 0.0


def write_overlays(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    draw: Callable[[int, np.ndarray], np.ndarray],
) -> None:
    """Writes the film with each frame as `draw(number, image)` makes it; times and sound stay as they are.

    Pictures `[H, W, 3]` may have another size than the frames, but all of them the same. Sound is copied, not encoded
    again. Raises as `frames`, and OSError if the film cannot be written.
    """
    library, path = pyav(), pathlib.Path(source)
    with _opened(path) as (container, stream), library.open(str(destination), "w") as written:
        sounds = {sound.index: written.add_stream_from_template(sound) for sound in container.streams.audio}
        out, number, waiting = None, 0, []
        for packet in container.demux(stream, *container.streams.audio):
            if packet.stream.type == "audio":
                if packet.dts is not None:  # the last one is empty: it only ends the stream
                    packet.stream = sounds[packet.stream.index]
                    waiting.append(packet)
            else:
                for frame in packet.decode():
                    picture = _even(draw(number, _shown(frame)))
                    number += 1
                    out = out or _film(written, stream, picture.shape, library)
                    shown = library.VideoFrame.from_ndarray(picture, format="rgb24")
                    shown.pts, shown.time_base = frame.pts, frame.time_base
                    written.mux(out.encode(shown))
            if out is not None:  # nothing may be written before all streams are known
                written.mux(waiting)
                waiting = []
        if out is not None:
            written.mux(out.encode())


def _film(written: Any, stream: Any, shape: tuple[int, ...], library: Any) -> Any:
    """A stream of pictures of this shape, with the times of `stream`."""
    codec = "libx264" if "libx264" in library.codecs_available else "mpeg4"
    rate = stream.average_rate or Fraction(25)
    out = written.add_stream(codec, rate=Fraction(rate).limit_denominator(65535))
    out.width, out.height, out.pix_fmt = shape[1], shape[0], "yuv420p"
    if codec == "libx264":
        out.codec_context.time_base = stream.time_base
        out.options = {"crf": "20", "preset": "veryfast"}
    else:
        out.bit_rate = 8 * 10**6
    return out


def _even(picture: np.ndarray) -> np.ndarray:
    """With an even number of rows and columns, which the film's colours need: the last ones are doubled."""
    return np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), "edge")
