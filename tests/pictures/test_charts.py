"""Charts: the lengths and heights are the values."""

import numpy as np

from ahs_seg_jax.pictures import charts


def runs(line: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """Lengths of the stretches of a colour along a line `[n, 3]`."""
    is_it = np.concatenate([[0], (line == color).all(axis=1), [0]]).astype(int)
    starts, ends = (np.flatnonzero(np.diff(is_it) == step) for step in (1, -1))
    return (ends - starts).tolist()


def test_bars_are_sorted_and_as_long_as_their_values():
    picture = charts.sorted_bars(["low", "high", "middle"], np.array([0.1, 0.9, 0.5]), "title")
    columns = [x for x in range(picture.shape[1]) if (picture[:, x] == charts.FULL).all(axis=1).any()]
    rows = [y for y in range(picture.shape[0]) if (picture[y, columns[0]] == charts.FULL).all()]
    lengths = [runs(picture[y], charts.FULL)[0] for y in rows]
    assert sorted(set(lengths), reverse=True) == list(dict.fromkeys(lengths)) == [181, 101, 21]


def test_many_bars_stand_in_columns():
    names = [f"a name of thing {index}" for index in range(charts.ROWS + 1)]
    few, many = (charts.sorted_bars(names[:n], np.full(n, 0.5), "t") for n in (charts.ROWS, charts.ROWS + 1))
    assert many.shape[0] == few.shape[0]
    assert many.shape[1] > 1.8 * few.shape[1]


def test_columns_are_as_high_as_alpha_and_its_part():
    alpha = np.array([0.25, 1.0, 0.0])
    towers = [("text tower", np.array([0.5]), np.array([0.25])), ("image tower", alpha, alpha)]
    picture = charts.layer_strengths(towers)
    tops = picture.transpose(1, 0, 2)
    full = [max(runs(column, charts.FULL), default=0) for column in tops]
    light = [max(runs(column, charts.LIGHT), default=0) for column in tops]
    height = charts.PLOT_HEIGHT
    # Each stretch includes the pixel of the axis.
    assert {height // 4 + 1, height + 1, 1} <= set(full)
    assert height // 4 in light
