"""Reading, segmenting and writing overlap; errors stay with their image; notes come in order; memory is bounded."""

import pathlib
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.cli import segment_stages
from ahs_seg_jax.cli.image_jobs import Job
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.segmenter import Segmentation

SETTINGS = Settings(("grass", "sand"), "tiny", None, "none", "model", None)
PATIENCE = 20.0  # seconds; a test that waits as long has failed


class Model:
    """In the place of a segmenter: the label of every pixel is the image's first number."""

    def __init__(self, before=lambda number: None):
        self.before, self.prepared, self.segmented = before, [], []

    def prepare(self, image, protocol):
        with Image.open(image) as file:
            array = np.asarray(file)
        self.prepared.append(int(array[0, 0, 0]))
        return array

    def __call__(self, image, words, **options):
        number = int(image[0, 0, 0])
        self.before(number)
        self.segmented.append(number)
        labels = np.full(image.shape[:2], number, np.int32)
        return Segmentation(image, labels, words, np.ones(labels.shape, np.float32))


class Folder:
    """In the place of a folder of results."""

    def __init__(self, before=lambda number: None, done=()):
        self.before, self.done, self.written, self.noted = before, done, [], []

    def has(self, job):
        return job.name.name in self.done

    def forget_another_file(self, job):
        pass

    def write(self, job, result):
        number = int(result.labels[0, 0])
        self.before(number)
        self.written.append(number)
        return {"image": result.source, "height": 5, "width": 7, "classes": {}}

    def note(self, job, summary, file):
        assert file == job.fingerprint()
        self.noted.append(job.name.name)


@pytest.fixture
def jobs(tmp_path):
    found = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((5, 7, 3), number, np.uint8)).save(path)
        found.append(Job(path, pathlib.PurePath(path.stem)))
    return found


def run(jobs, folder, model, settings=SETTINGS):
    return segment_stages.segment_each(jobs, folder, model, ("grass",) * 9, settings, heat_maps=False)


@pytest.mark.parametrize("processors", [1, 2, 16])
def test_the_three_stages_overlap(jobs, monkeypatch, processors):
    monkeypatch.setattr(segment_stages.threads, "cores", lambda: processors)
    begun = {number: threading.Event() for number in range(10)}  # writing, by image
    model, folder = Model(), Folder(lambda number: begun[number].set())

    def before(number):
        if number:
            assert begun[number - 1].wait(PATIENCE), "the model has the next image, and the last one is not written yet"
        until = time.monotonic() + PATIENCE
        while number < 8 and number + 1 not in model.prepared:
            assert time.monotonic() < until, "the model has an image, and the next one is not read yet"
            time.sleep(0.01)

    model.before = before
    assert run(jobs, folder, model) == []
    assert folder.noted == [str(number) for number in range(9)]
    assert model.segmented == list(range(9))
    assert sorted(folder.written) == list(range(9))


def test_slow_files_do_not_change_the_order(jobs, capsys):
    last = threading.Event()

    def before(number):
        if number == 1:
            last.set()
        if number == 0:
            assert last.wait(PATIENCE)

    folder = Folder(before, done={"4"})
    assert run(jobs, folder, Model()) == []
    assert folder.written[0] == 1
    assert folder.noted == ["0", "1", "2", "3", "5", "6", "7", "8"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("]")[0] for line in lines] == [f"[{number}/9" for number in range(1, 10)]
    assert lines[4].endswith("4.png: done before")


def test_an_error_is_that_of_one_image(jobs, capsys):
    def fail(wrong):
        def before(number):
            if number == wrong:
                raise ValueError(f"{wrong} is wrong")

        return before

    jobs[1].path.write_bytes(b"no image")
    jobs[2].path.unlink()
    model, folder = Model(fail(4)), Folder(fail(6))
    failed = dict(run(jobs, folder, model))
    assert [job.name.name for job in failed] == ["1", "2", "4", "6"]
    assert [failed[jobs[4]], failed[jobs[6]]] == ["4 is wrong", "6 is wrong"]
    assert folder.noted == ["0", "3", "5", "7", "8"]
    assert capsys.readouterr().err.count(": FAILED") == 4


def test_images_of_one_name(jobs):
    twin = Job(jobs[8].path, jobs[0].name)
    ((job, why),) = run([jobs[0], twin], Folder(), Model())
    assert job is twin
    assert "the same name as those of" in why


def test_ctrl_c_stops_after_noting_what_was_segmented(jobs):
    def before(number):
        if number == 5:
            raise KeyboardInterrupt

    model, folder = Model(before), Folder()
    others = threading.active_count()  # of other tests of this process
    with pytest.raises(KeyboardInterrupt):
        run(jobs, folder, model)
    assert folder.noted == ["0", "1", "2", "3", "4"]
    assert threading.active_count() <= others


def test_few_images_are_in_memory(jobs, monkeypatch):
    monkeypatch.setattr(segment_stages.threads, "cores", lambda: 2)
    most = []

    class Watching(Folder):
        def note(self, job, summary, file):
            super().note(job, summary, file)
            most.append(len(model.prepared) - len(self.noted))

    model = Model()
    run(jobs * 1, Watching(), model)
    assert max(most) <= 9  # four read, one segmented, four written
    most.clear()
    model = Model()
    monkeypatch.setattr(segment_stages, "HELD", 1.0)
    run(jobs, Watching(), model)
    assert max(most) <= 1, "images larger than the bound go one after the other"
