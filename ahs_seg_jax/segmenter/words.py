"""The words of one call: the names that are shown, and what makes a pixel unknown."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ahs_seg_jax.vocabulary import IGNORE, Vocabulary, plain_name

Names = Sequence[str] | Vocabulary
Unknown = str | float | Sequence[str]  # "none", a probability, or background words


def parse_unknown(text: str) -> str | float | tuple[str, ...]:
    """`none`, a probability, or words separated by ';'."""
    if text.strip() == "none":
        return "none"
    try:
        return float(text)
    except ValueError:
        return tuple(filter(None, map(plain_name, text.split(";"))))


@dataclasses.dataclass(frozen=True)
class Words:
    """A vocabulary whose first `count` names are shown; pixels of the others, and of less probability, are unknown."""

    vocabulary: Vocabulary
    count: int
    threshold: float  # the least probability of a pixel that gets a name, 0..1

    @classmethod
    def of(cls, vocabulary: Vocabulary, unknown: Unknown) -> "Words":
        """The words of a vocabulary and an option `unknown` as calls take it. Raises ValueError for another value."""
        if isinstance(unknown, str | bool):  # False would be the probability 0
            if unknown != "none":
                raise ValueError(
                    f"unknown is {unknown!r}; pass 'none', a probability such as 0.3, or a list of background words"
                )
            return cls(vocabulary, len(vocabulary), 0.0)
        if isinstance(unknown, int | float):
            if not 0 <= unknown <= 1:
                raise ValueError(f"unknown is {unknown}; as a probability it must lie within 0..1")
            return cls(vocabulary, len(vocabulary), float(unknown))
        every = dataclasses.replace(vocabulary, names=(*vocabulary.names, *map(plain_name, unknown)), groups=())
        return cls(every, len(vocabulary), 0.0)

    def known(self, labels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """Labels int32 `[H, W]` with -1 for what is unknown, from labels and confidence of all words."""
        return np.where((labels >= self.count) | (confidence < self.threshold), np.int32(IGNORE), labels)
