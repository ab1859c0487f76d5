"""What a run tells people: progress lines with rate and time left, TensorBoard curves, and pictures.

TensorBoard files lie in `<workdir>/tensorboard`, pictures as PNG in `<workdir>/pictures`.
"""

import collections
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from ahs_seg_jax.devices import processes
from ahs_seg_jax.progress import duration
from ahs_seg_jax.storage import background
from ahs_seg_jax.training.curves import Curves


class Stopwatch:
    """Seconds of work since it was made, time inside `paused` left out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds of work so far."""
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in this context does not count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start


class Monitor:
    """Writes the progress of a run of `total_steps` that (re)starts after step `first_step`.

    Rates leave out the first step, which includes compilation. Curves, pictures and results are written beside the
    training, by the first process.
    """

    def __init__(self, workdir: str | os.PathLike[str], total_steps: int, first_step: int, batch_size: int):
        self._total, self._first, self._batch_size = total_steps, first_step, batch_size
        self._stopwatch: Stopwatch | None = None
        self._made = time.perf_counter()
        self._pictures = epath.Path(workdir) / "pictures"
        self._curves = Curves(epath.Path(workdir) / "tensorboard") if processes.is_main_process() else None
        self.writer = background.Writer()  # no other thread touches the curves

    @property
    def started(self) -> bool:
        """Whether the first step is done."""
        return self._stopwatch is not None

    def start(self, step: int, result: Any) -> None:
        """After the first step, waits for its `result` and says how long that took; steps are timed from here on.

        Later calls return at once.
        """
        if self._stopwatch is None:
            jax.block_until_ready(result)
            processes.log(f"first step, compilation included: {duration(time.perf_counter() - self._made)}")
            self._stopwatch, self._first = Stopwatch(), step

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in this context (evaluation, pictures) does not count as training."""
        with self._stopwatch.paused() if self._stopwatch else contextlib.nullcontext():
            yield

    def images_per_second(self, step: int) -> float:
        """Mean rate since `start`; 0 before the first timed step is done."""
        seconds = self._stopwatch.seconds() if self._stopwatch else 0.0
        return (step - self._first) * self._batch_size / seconds if seconds and step > self._first else 0.0

    def report(self, step: int, losses: Mapping[str, float], scalars: Mapping[str, float]) -> None:
        """One progress line, and TensorBoard curves: `loss/<name>` for each loss, the other scalars by their names."""
        rate = self.images_per_second(step)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        pace = f"  {rate:.1f} images/s  {duration((self._total - step) * self._batch_size / rate)} left" if rate else ""
        processes.log(f"step {step}/{self._total}  {shown}{pace}")
        self.scalars(step, {f"loss/{name}": value for name, value in losses.items()})
        self.scalars(step, {**scalars, **({"images_per_second": rate} if rate else {})})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of TensorBoard curves, named `group/name`; a value that is not a number makes no point."""
        points = {name: value for name, value in values.items() if not math.isnan(value)}
        if (curves := self._curves) is not None:
            self.writer.do(f"TensorBoard's points of step {step}", lambda: curves.scalars(points, step))

    def picture(self, step: int, name: str, image_uint8: UInt8[np.ndarray, "h w 3"]) -> None:
        """A picture in TensorBoard and as `pictures/<name>_<step>.png`."""
        if (curves := self._curves) is None:
            return

        def write() -> None:
            curves.picture(name, image_uint8, step)
            self._pictures.mkdir(parents=True, exist_ok=True)
            with (self._pictures / f"{name}_{step:06d}.png").open("wb") as file:
                Image.fromarray(image_uint8).save(file, "PNG")

        self.writer.do(f"the picture {name} of step {step}", write)

    def beside(self, what: str, write: Callable[[], object]) -> None:
        """Writes other small files beside the training; `what` names them in a warning."""
        if processes.is_main_process():
            self.writer.do(what, write)

    def close(self) -> None:
        """Writes what is still waiting."""
        if self._curves:
            self.writer.do("the end of TensorBoard's file", self._curves.close)
        self.writer.close()


class NonFiniteLoss(RuntimeError):
    """A loss or the gradient is not a number: names the step, every loss and the batch's files."""


class MetricsQueue:
    """Metrics of the latest steps, fetched from the device `delay` steps later, so that it never waits for the host.

    Every step's losses are looked at; every `log_every`-th is reported. One that is not finite is an error, unless such
    updates are skipped (`skip_limit`): then it is named, and an error when more than that many were.
    """

    def __init__(
        self,
        monitor: Monitor,
        log_every: int,
        example_name: Callable[[int], str],
        delay: int = 2,
        skip_limit: int | None = None,
    ):
        self._monitor, self._log_every, self._name, self._delay = monitor, log_every, example_name, delay
        self._skip_limit = skip_limit
        self._waiting: collections.deque[tuple[int, Mapping[str, jax.Array], np.ndarray]] = collections.deque()

    def push(self, step: int, metrics: Mapping[str, jax.Array], index: np.ndarray) -> None:
        """Metrics of a step that may still be running, and the indices of its examples. Raises as `drain`."""
        self._waiting.append((step, metrics, index))
        self.drain(self._delay)

    def drain(self, keep: int = 0) -> None:
        """Fetches all but the newest `keep`. Raises NonFiniteLoss for the first step with a loss that is no number."""
        while len(self._waiting) > keep:
            step, metrics, index = self._waiting.popleft()
            values = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
            losses = {"total": float(values.pop("loss/total"))}
            losses |= {name[5:]: float(value) for name, value in values.items() if name.startswith("loss/")}
            skipped = int(values["skipped_updates"]) if "skipped_updates" in values else 0
            self._check(step, losses, float(values["gradient_norm"]), index, skipped)
            if step % self._log_every == 0:
                others = {name: value for name, value in values.items() if not name.startswith("loss/")}
                self._monitor.report(step, losses, _expanded(others))

    def _check(
        self, step: int, losses: Mapping[str, float], gradient_norm: float, index: np.ndarray, skipped: int
    ) -> None:
        if all(math.isfinite(value) for value in (*losses.values(), gradient_norm)):
            return
        seen = ", ".join(f"{name} {value:g}" for name, value in {**losses, "gradient norm": gradient_norm}.items())
        files = ", ".join(self._name(int(number)) for number in index)
        found = f"step {step} is not finite: {seen}; its batch: {files}."
        if self._skip_limit is not None and skipped <= self._skip_limit:
            processes.log(
                f"WARNING: {found} Its update is left out: {skipped} so far, train.nonfinite_limit = {self._skip_limit}"
            )
            return
        if self._skip_limit is not None:
            found += f" {skipped} updates were left out, more than train.nonfinite_limit = {self._skip_limit}."
        raise NonFiniteLoss(
            f"{found} The checkpoints from before that step are kept; look at those files, continue with "
            "train.on_nonfinite = skip, or start from the last checkpoint with a lower train.learning_rate or "
            "train.clip_norm in a new workdir (set init to the old one)"
        )


def _expanded(values: Mapping[str, Any]) -> dict[str, float]:
    """Scalars as they are, vectors as `name/00`, `name/01`, ..."""
    points: dict[str, float] = {}
    for name, value in values.items():
        if value.ndim:
            points |= {f"{name}/{place:02d}": float(item) for place, item in enumerate(value)}
        else:
            points[name] = float(value)
    return points
