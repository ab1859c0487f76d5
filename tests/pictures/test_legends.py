"""Legends, heat maps and comparisons: colours where they belong, text that fits."""

import numpy as np
import pytest

from ahs_seg_jax.pictures import legends, overlays
from ahs_seg_jax.pictures.colors import assign_colors

NAMES = tuple(f"a rather long name of thing {index} that goes on" for index in range(60))
COLORS = assign_colors(NAMES)


def shown(picture: np.ndarray) -> list[int]:
    return [i for i, color in enumerate(COLORS) if (picture == color).all(axis=-1).any()]


def test_the_largest_classes_are_listed_and_the_rest_counted():
    labels = np.repeat(np.arange(60), np.arange(1, 61))[None].repeat(3, axis=0)
    legend = legends.legend(labels, NAMES, COLORS, height=200)
    listed = shown(legend)
    assert 59 in listed
    assert 0 not in listed
    assert listed == list(range(60 - len(listed), 60))
    assert legend.shape[0] == 200


def test_a_tiny_image_still_has_a_legible_legend():
    picture = legends.with_legend(np.zeros((1, 2, 3), np.uint8), np.array([[0, -1]]), NAMES, COLORS)
    assert picture.shape[0] >= 2 * legends.LEAST_TEXT
    assert shown(picture) == [0]


def test_legend_text_lies_on_plain_ground():
    """Half the panel at least is its own background, whatever the image is."""
    labels = np.zeros((331, 97), np.int32)
    legend = legends.legend(labels, NAMES, COLORS, 331)
    assert ((legend == overlays.BACKGROUND).all(axis=-1)).mean() > 0.5


def luminance(color) -> float:
    """Relative, 0..1, of an sRGB colour, as in the accessibility guidelines WCAG 2."""
    encoded = np.asarray(color) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def test_text_stands_out_from_its_ground():
    """WCAG 2: 7 for text, 3 for the lines around samples."""
    ground = luminance(overlays.BACKGROUND) + 0.05
    assert ground / (luminance(overlays.TEXT) + 0.05) > 7
    assert ground / (luminance(overlays.FAINT) + 0.05) > 3


def test_heat_is_ordered_by_lightness():
    luma = legends.HEAT @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luma) > 15).all()
    ramp = np.linspace(0, 1, 67, dtype=np.float32)[None].repeat(89, axis=0)
    picture = legends.heat_map(np.full((89, 67, 3), 128, np.uint8), ramp, "cat", alpha=1.0)
    columns = picture[-89:, :67].astype(float) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(columns.mean(axis=0)) > 0).all()


def test_comparison_of_three_shows_no_difference_map():
    image, labels = np.zeros((53, 59, 3), np.uint8), np.zeros((53, 59), np.int32)
    part = ("title", labels, NAMES, COLORS)
    two, three = (legends.comparison(image, [part] * count) for count in (2, 3))
    assert not (two == (255, 233, 60)).all(axis=-1).any()
    assert three.shape[1] > two.shape[1]
    with pytest.raises(ValueError, match="both must agree"):
        legends.comparison(image[1:], [part])


def test_every_legend_names_what_does_not_fit_and_what_has_no_class():
    """Panels, results and contact sheets draw one table: rows that fit, the count of the others, the last row."""
    table = [legends.Row(tuple(color), name, ("1.0 %",)) for name, color in zip(NAMES, COLORS.tolist(), strict=True)]
    last = [legends.Row(legends.BLACK, "unlabelled")]
    full = legends.draw_table(table[:4], 5 * 21, last, size=14)
    assert (full.shape[0], shown(full)) == (5 * 21, [0, 1, 2, 3])
    cut = legends.draw_table(table[:6], 5 * 21, last, size=14)
    assert shown(cut) == [0, 1, 2]
    assert [bool((cut[21 * k + 4 : 21 * k + 17, 1:13] == 0).all()) for k in range(5)] == [False] * 4 + [True]
    headed = legends.draw_table(table[:6], 5 * 21, last, size=14, headings=("share",))
    assert shown(headed) == [0, 1]


def test_rows_of_a_legend_by_hand():
    first, second = np.array([0.25, 0.75, 0, 0]), np.array([0.0, 0.5, 0, 0.0005])
    found = legends.rows([first, second], ["a, b", "c", "d", "e"], COLORS)
    assert [(row.name, row.numbers) for row in found] == [
        ("c", ("75.0 %", "50.0 %")),
        ("a", ("25.0 %", "-")),
        ("e", ("-", "< 0.1 %")),
    ]
    labels = np.array([[0, 1, 1, -1]])
    assert legends.shares(labels, 3).tolist() == [1 / 3, 2 / 3, 0]
    assert legends.shares(labels, 3, of_all=True).tolist() == [0.25, 0.5, 0]
