"""How time grows: the exponent of a power law through measured points."""

import math
from collections.abc import Sequence


def exponent(amounts: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log value over log amount by least squares: 1 means linear.

    Raises ValueError for fewer than two different amounts, or values that are not positive.
    """
    if len(set(amounts)) < 2 or len(amounts) != len(values):
        raise ValueError(f"a fit needs two different amounts and as many values; got {list(amounts)}, {list(values)}")
    if min(*amounts, *values) <= 0:
        raise ValueError("a power law needs positive amounts and values")
    x, y = [math.log(amount) for amount in amounts], [math.log(value) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - middle_x) ** 2 for a in x)
