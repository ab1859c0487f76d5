"""Memory plans: by hand, under bounds, and refused."""

import pytest

from ahs_seg_jax.inference import CAT_SEG, WHOLE, plan
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.models import architecture

CPU_ONLY = {"cpu": 2}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """The plans below are written down for a CPU with two cores, and for other platforms with one pass at a time."""
    monkeypatch.setattr(plan.buckets, "passes_at_once", lambda platform: CPU_ONLY.get(platform, 1))


def make(classes=1000, seen_by=CAT_SEG, memory_gb=None, model=None, size=(3000, 4000), **options):
    request = plan.Request(size, classes, seen_by, **options)
    return plan.make_plan(model or architecture.vitb16(), {}, request, memory_gb)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(plan.jax, "default_backend", lambda: "gpu")


def test_state_by_hand():
    assert plan.state_bytes(architecture.vitb16()) == 24 * 24 * 128 * 4
    assert plan.state_bytes(architecture.vitb16().replace(dtype="bfloat16")) == 24 * 24 * 128 * 2


def test_a_thousand_classes_on_twelve_megapixels_fit():
    made = make(memory_gb=6)
    assert (made.kept, made.views, made.chunk, made.at_once) == (1000, 5, 6, 1)
    assert made.gigabytes < 6
    assert made.parts["classes between the passes"] == 2 * 1002 * 24 * 24 * 128 * 4
    text = str(made)
    assert "4000 x 3000 pixels, 5 view(s), 1 at once" in text
    assert "1000 classes, in 167 pass(es) of 6" in text


def test_an_accelerator_takes_many_classes_at_once(gpu):
    made = make(classes=256, seen_by=WHOLE)
    assert (made.chunk, made.parts["classes between the passes"]) == (256, 256 * 24 * 24 * 128 * 4)


def test_the_cut_needs_less():
    made = make(keep=256)
    assert "of which each view keeps the best 256, in 43 pass(es) of 6" in str(made)
    assert made.gigabytes < make().gigabytes


def test_a_tight_bound_takes_smaller_chunks(gpu):
    loose = make(classes=64, seen_by=WHOLE)
    tight = make(classes=64, seen_by=WHOLE, memory_gb=loose.gigabytes - 0.05)
    assert tight.chunk < loose.chunk


def test_small_models_take_views_together():
    made = make(classes=19, model=architecture.tiny(), images=3)
    assert made.at_once == 5


@pytest.mark.parametrize(
    ("classes", "images", "at_once"),
    [(8, 1, 2), (16, 1, 2), (32, 1, 1), (8, 4, 2)],
)
def test_groups_of_views_are_not_filled_up_with_much(classes, images, at_once, monkeypatch):
    """Five views: as 5 or 2 + 2 + 1, never as 4 + 4, where that would not fit a pass's memory."""
    monkeypatch.setitem(plan.WORKING, "cpu", 5e8)
    assert make(classes=classes, images=images).at_once == at_once
    assert plan._filling(5, 1, 4) == 3
    assert plan._filling(5, 3, 16) == pytest.approx(1 / 3)
    assert plan._filling(1, 7, 8) == pytest.approx(1 / 7)


def test_what_cannot_fit_is_refused_with_the_plan():
    with pytest.raises(ValueError, match=r"(?s)more than memory_gb = 2:.*labels and confidence.*keep=256"):
        make(classes=5000, memory_gb=2)


def test_probabilities_are_counted():
    assert make(probabilities=True).parts["probabilities"] == 4 * 1000 * 12e6


def test_windows_hold_the_logits_of_a_strip():
    windows = NativeWindows()
    made = make(seen_by=windows, keep=256)
    assert made.views == windows.grid((3000, 4000), 384).count == 12 * 16
    assert made.columns == 4  # 2048 pixels: 9 windows, and 3 rows of them around a tile, of 37 MB each
    assert made.parts["logits"] == 3 * 9 * 1000 * 4 * 96**2
    assert "192 view(s), 1 at once, strips of 2048 pixels" in str(made)
    few = make(classes=19, seen_by=windows)
    assert few.columns == 8
    assert "strips" in str(few)


def test_a_streamed_image_takes_the_same_whatever_its_length():
    sizes = ((30_000, 2_000), (60_000, 2_000))
    plans = [make(size=size, seen_by=NativeWindows(), streamed=True, memory_gb=6) for size in sizes]
    assert plans[0].gigabytes == plans[1].gigabytes < 6
    assert make(size=(3000, 4000), seen_by=NativeWindows()).parts["image, labels, confidence"] == 11 * 12e6
    with pytest.raises(ValueError, match=r"more than memory_gb = 1"):
        make(seen_by=NativeWindows(), memory_gb=1)
