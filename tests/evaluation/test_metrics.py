"""Confusion matrix and scores: values by hand and the stored golden."""

import numpy as np
import pytest

from ahs_seg_jax.evaluation import metrics


def test_confusion_matrix_by_hand():
    label = np.array([[0, 0, 1], [2, -1, 2]])
    prediction = np.array([[0, 1, 1], [2, 0, 0]])
    expected = [[1, 0, 1], [1, 1, 0], [0, 0, 1]]  # row = predicted
    counted = metrics.confusion_matrix(label, prediction, 3)
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted, expected)


def test_scores_by_hand():
    # Class 0: 3 pixels, 2 found. Class 1: absent, wrongly predicted once. Class 2: 1 pixel, found.
    result = metrics.scores(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(result.iou, [200 / 3, np.nan, 100])
    np.testing.assert_allclose(result.accuracy, [200 / 3, np.nan, 100])
    assert result.miou == pytest.approx((200 / 3 + 100) / 2)
    assert result.fwiou == pytest.approx(0.75 * 200 / 3 + 0.25 * 100)
    assert result.macc == pytest.approx((200 / 3 + 100) / 2)
    assert result.pacc == pytest.approx(75)
    np.testing.assert_array_equal(result.pixels, [3, 0, 1])


def test_both_rules_about_absent_classes_by_hand():
    # Class 1 is absent and predicted once, class 3 absent and never predicted.
    result = metrics.scores(np.array([[2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]))
    assert result.predicted.tolist() == [2, 1, 1, 0]
    assert result.miou == pytest.approx((200 / 3 + 100) / 2)
    assert result.miou_labelled_or_predicted == pytest.approx((200 / 3 + 100 + 0) / 3)


def test_both_rules_agree_where_only_labelled_classes_are_predicted():
    result = metrics.scores(np.array([[4, 4, 0], [1, 2, 0], [0, 0, 0]]))
    assert result.miou_labelled_or_predicted == result.miou


def test_a_false_prediction_lowers_the_iou_of_a_present_class():
    result = metrics.scores(np.array([[4, 4], [0, 0]]))
    np.testing.assert_allclose(result.iou, [50, 0])


def test_mean_over_selected_classes_leaves_absent_ones_out():
    result = metrics.scores(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 1]]))
    assert result.mean_iou(np.array([True, True, False])) == pytest.approx(200 / 3)
    assert result.mean_iou(np.array([False, True, True])) == pytest.approx(100)
    assert np.isnan(result.mean_iou(np.array([False, True, False])))


def test_matrices_of_images_add_up():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(-1, 5, (3, 7, 11)), rng.integers(0, 5, (3, 7, 11))
    parts = sum(metrics.confusion_matrix(a, b, 5) for a, b in zip(label, prediction, strict=True))
    np.testing.assert_array_equal(parts, metrics.confusion_matrix(label, prediction, 5))


def test_nothing_labelled_gives_nan_without_a_warning():
    result = metrics.scores(metrics.confusion_matrix(np.full((2, 3), -1), np.zeros((2, 3), int), 2))
    assert np.isnan([result.miou, result.fwiou, result.macc, result.pacc, result.miou_labelled_or_predicted]).all()


def test_golden(golden):
    stored = np.load(golden / "metrics.npz")
    label = np.where(stored["labels"] == 255, -1, stored["labels"])
    counted = metrics.confusion_matrix(label, stored["predictions"], int(stored["num_classes"]))
    np.testing.assert_array_equal(counted, stored["confusion"][:-1, :-1])
    result = metrics.scores(counted)
    np.testing.assert_allclose(
        [result.miou, result.fwiou, result.macc, result.pacc],
        [stored[key].item() for key in ("mIoU", "fwIoU", "mACC", "pACC")],
        rtol=1e-12,
    )
    np.testing.assert_allclose(result.iou, stored["IoU"], rtol=1e-12)


@pytest.mark.parametrize(
    ("label", "prediction", "text"),
    [
        ([0, 1], [0], r"labels have shape \(2,\) but predictions \(1,\)"),
        ([0, 3], [0, 1], r"label value 3 is outside -1\.\.2 \(3 classes\)"),
        ([0, -2], [0, 1], r"label value -2 is outside -1\.\.2"),
        ([0, 1], [0, 3], r"prediction value 3 is outside 0\.\.2"),
        ([0, 1], [0, -1], r"prediction value -1 is outside 0\.\.2"),
    ],
)
def test_values_out_of_range_are_refused(label, prediction, text):
    with pytest.raises(ValueError, match=text):
        metrics.confusion_matrix(np.array(label), np.array(prediction), 3)
