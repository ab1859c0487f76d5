"""The words of one call: the names that are shown, and what makes a pixel unknown."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ahs_seg_jax.vocabulary import IGNORE, Vocabulary, plain_name

Names = Sequence[str] | Vocabulary


@dataclasses.dataclass(frozen=True)
class Background:
    """What makes a pixel unknown, several ways at once, as published benchmarks with a background need them.

    Raises ValueError for a probability or an area outside 0..1.
    """

    words: tuple[str, ...] = ()  # pixels of these words are unknown
    probability: float = 0.0  # so are pixels whose most probable name has less than it
    area: float = 0.0  # a name with at most this share of the named pixels gives them up to other words, or to nothing

    def __post_init__(self) -> None:
        if isinstance(self.words, str):
            raise ValueError(f"the background words are the text {self.words!r}; give a list, such as [{self.words!r}]")
        object.__setattr__(self, "words", tuple(self.words))
        for name in ("probability", "area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"the background's {name} is {getattr(self, name)}; it must lie within 0..1")


Unknown = str | float | Sequence[str] | Background  # "none", a probability, background words, or all of it


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
    area: float = 0.0  # a name must have more than this share of the named pixels, 0..1

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
        background = unknown if isinstance(unknown, Background) else Background(tuple(unknown))
        words = tuple(map(plain_name, background.words))
        if vocabulary.synonyms != "first":
            _check_background(vocabulary, words)
        every = dataclasses.replace(vocabulary, names=(*vocabulary.names, *words), groups=())
        return cls(every, len(vocabulary), background.probability, background.area)

    @property
    def background(self) -> range:
        """The indices of the background words."""
        return range(self.count, len(self.vocabulary))

    def known(self, labels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """Labels int32 `[H, W]` with -1 for what is unknown, from labels and confidence of all words."""
        return np.where((labels >= self.count) | (confidence < self.threshold), np.int32(IGNORE), labels)


def _check_background(vocabulary: Vocabulary, words: Sequence[str]) -> None:
    """Raises ValueError for a background word that is a synonym of a name: the same pixels would be both."""
    plain = lambda word: " ".join(word.split()).casefold()
    named = {plain(synonym): name for name in vocabulary.names for synonym in name.split(", ")}
    for word in (synonym for given in words for synonym in given.split(", ")):
        if plain(word) in named:
            raise ValueError(
                f"the background word {word!r} repeats the name {named[plain(word)]!r}; take it out of one of them"
            )
