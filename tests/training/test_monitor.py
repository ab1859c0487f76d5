"""Progress lines, curves and pictures, and the stop at a loss that is no number."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.record_writer import RecordWriter

from ahs_seg_jax.training.monitor import MetricsQueue, Monitor, NonFiniteLoss, Stopwatch


def test_stopwatch_leaves_pauses_out(monkeypatch):
    now = iter([10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    with watch.paused():  # 12 to 20
        pass
    assert watch.seconds() == 3.0


def curves(workdir):
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, events


def metrics(total=1.5, **others):
    values = {"loss/total": total, "loss/energy": 0.25, "gradient_norm": 2.0, **others}
    return {name: jnp.asarray(value) for name, value in values.items()}


def test_reports_every_so_many_steps_after_the_delay(tmp_path, capsys):
    monitor = Monitor(tmp_path, total_steps=6, first_step=0, batch_size=4)
    queue = MetricsQueue(monitor, log_every=2, example_name=str, delay=2)
    for step in range(1, 5):
        queue.push(step, metrics(total=step + 0.5, **{"alpha/text": jnp.asarray([0.25, 0.5])}), np.arange(4))
    assert "step 2/6  total 2.5000  energy 0.2500" in capsys.readouterr().out
    queue.drain()
    assert "step 4/6  total 4.5000  energy 0.2500" in capsys.readouterr().out
    monitor.close()
    scalars, _ = curves(tmp_path)
    assert scalars["loss/total"] == [(2, 2.5), (4, 4.5)]
    assert scalars["loss/energy"] == [(2, 0.25), (4, 0.25)]
    assert scalars["gradient_norm"] == [(2, 2.0), (4, 2.0)]
    assert scalars["alpha/text/00"] == [(2, 0.25), (4, 0.25)]
    assert scalars["alpha/text/01"] == [(2, 0.5), (4, 0.5)]


@pytest.mark.parametrize("bad", [{"total": float("nan")}, {"gradient_norm": float("inf")}])
def test_first_step_that_is_not_finite_is_named_with_its_losses_and_files(tmp_path, bad):
    monitor = Monitor(tmp_path, total_steps=9, first_step=0, batch_size=2)
    queue = MetricsQueue(monitor, log_every=100, example_name=lambda index: f"street_{index}.png", delay=1)
    queue.push(3, metrics(), np.array([1, 2]))
    queue.push(4, metrics(**bad), np.array([5, 7]))
    with pytest.raises(NonFiniteLoss, match=r"step 4 is not finite: .*energy 0.25.*street_5.png, street_7.png"):
        queue.drain()
    monitor.close()


def test_rate_and_time_left(tmp_path, capsys, monkeypatch):
    monitor = Monitor(tmp_path, total_steps=30, first_step=9, batch_size=4)
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monitor.start(10, jnp.zeros(()))
    now[0] = 102.0
    with monitor.paused():
        now[0] = 150.0
    monitor.start(15, jnp.zeros(()))  # only the first call counts
    monitor.report(20, {"total": 1.0}, {})
    # 10 steps of 4 images in 2 seconds; 10 more to go.
    assert "20.0 images/s  2 s left" in capsys.readouterr().out
    monitor.close()
    assert curves(tmp_path)[0]["images_per_second"] == [(20, 20.0)]


def test_picture_in_tensorboard_and_as_file(tmp_path):
    monitor = Monitor(tmp_path, total_steps=1, first_step=0, batch_size=1)
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    monitor.picture(3, "val_0", image)
    monitor.close()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / "val_0_000003.png")), image)
    shown = curves(tmp_path)[1].Images("val_0")
    assert [(event.step, event.height, event.width) for event in shown] == [(3, 5, 7)]


def test_scores_that_do_not_exist_make_no_curve(tmp_path):
    monitor = Monitor(tmp_path, total_steps=1, first_step=0, batch_size=1)
    monitor.scalars(1, {"eval/mIoU": 12.5, "eval/mIoU_unseen": float("nan")})
    monitor.close()
    assert set(curves(tmp_path)[0]) == {"eval/mIoU"}


def test_full_disk_is_said_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    monitor = Monitor(tmp_path, total_steps=9, first_step=0, batch_size=2)
    monitor.scalars(1, {"loss/total": 1.0})
    assert monitor.writer.wait(60)
    original = RecordWriter.write

    def full(self, data):
        if len(data) > 30:  # more than the line that starts a file
            raise OSError(28, "No space left on device")
        original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        monitor.scalars(2, {"loss/total": 2.0})
        monitor.picture(2, "val_0", np.zeros((4, 4, 3), np.uint8))
        assert monitor.writer.wait(60)
    printed = capsys.readouterr().out
    assert "WARNING: TensorBoard's points of step 2 could not be written (OSError: [Errno 28] No space left" in printed
    assert printed.count("training goes on") == 1  # once for an outage
    monitor.scalars(3, {"loss/total": 3.0})
    monitor.close()
    assert "curves, pictures and results are written again; 2 writes were lost" in capsys.readouterr().out
    assert curves(tmp_path)[0]["loss/total"] == [(1, 1.0), (3, 3.0)]
