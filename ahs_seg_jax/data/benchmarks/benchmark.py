"""What is known about a benchmark: its files, the values of its labels, and what its statistics should look like."""

import dataclasses
import functools
import importlib.resources
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.storage.paths import check, location
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary, first_synonym

ROOT_VARIABLE = "AHS_SEG_DATA"
BACKGROUND = "background"
LISTED = 5  # names that a message spells out; the rest is counted


@dataclasses.dataclass(frozen=True)
class Pair:
    """One photograph and its labels, not read yet. `label` is what the benchmark's `read_values` takes."""

    name: str
    image: pathlib.Path
    label: Any

    def stamp(self) -> str:
        """Text that changes if another file takes the place of one of these."""
        label = self.label.stat().st_size if isinstance(self.label, pathlib.Path) else len(repr(self.label))
        return f"{self.name}\t{self.image.stat().st_size}\t{label}"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a split: complete pairs in the order of their names, and what is wrong with the set of files."""

    pairs: tuple[Pair, ...]
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A published data set. The value of a label's pixel, as downloaded, means the class `table[value]`.

    `find(root, split)` lists the files below the folder of the downloads; it raises FileNotFoundError, with what was
    looked for and what is there, if a folder or list of the data set is missing. `read_values(pair.label)` gives the
    values, int `[h, w]`. Every value that is no class's own means no class, or the class `rest` where a data set counts
    all else as background. `unlabelled` are those that its labels hold; None if they may hold any.
    """

    name: str
    counts: Mapping[str, tuple[int, ...]]  # images of each split; several numbers if published ones differ
    find: Callable[[pathlib.Path, str], Listing]
    read_values: Callable[[Any], np.ndarray]
    values: Callable[[], np.ndarray]  # int [t]: the value of each class
    unlabelled: frozenset[int] | None  # values without a class of their own
    downloads: str  # what to download, and where it goes
    frequent: tuple[str, ...]  # classes that are among the commonest, by first synonym
    ignored_share: tuple[float, float]  # plausible share of pixels without a class
    shares: Callable[[], np.ndarray] | None = None  # float [t]: the published share of the pixels of each class
    rest: int = IGNORE  # the class of the values that are no class's own; -1: they have none
    same_as: str = ""  # the benchmark whose class names and published scores this one shares; "": it has its own
    short_edge: int | None = None  # larger images are resized to this shortest edge, in pixels, and scored so
    jpeg_quality: int | None = (
        None  # photographs are written again as JPEG of this quality; None: they stay as they are
    )
    background: str | None = None  # a scored class, after the listed ones, which every name beyond them counts as
    scored: int = 0  # listed classes that are scored, if `background` is one

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The names that predictions choose from."""
        return Vocabulary.named(self.same_as or self.name)

    @functools.cached_property
    def classes(self) -> int:
        """The number of classes that labels index."""
        return self.scored + 1 if self.background else len(self.vocabulary)

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index, and scores are given for."""
        names = self.vocabulary.names
        return (*names[: self.scored], self.background) if self.background else names

    @property
    def background_index(self) -> int:
        """The scored class that stands for whatever has no name of its own; -1 where there is none."""
        names = [first_synonym(name) for name in self.scored_names]
        return names.index(BACKGROUND) if BACKGROUND in names else IGNORE

    @functools.cached_property
    def table(self) -> np.ndarray:
        """`int32 [n]`: the class of each value, `rest` (-1: none) for those of no class."""
        values = self.values()
        table = np.full(int(values.max()) + 1, self.rest, np.int32)
        table[values] = np.arange(len(values))
        return table

    @functools.cached_property
    def _table_and_rest(self) -> np.ndarray:
        return np.append(self.table, np.int32(self.rest))

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Class indices `int32 [h, w]` of the values of a label, -1 where unlabelled."""
        return self._table_and_rest.take(values, mode="clip")

    def strange(self, values: np.ndarray) -> np.ndarray:
        """Those of the given values (sorted, unique) that the data set never uses."""
        if self.unlabelled is None:
            return values[:0]
        without = values[~np.isin(values, self.values())]
        return without[~np.isin(without, list(self.unlabelled))]


def resolve_root(root: str | os.PathLike[str], field: str = "data.root") -> pathlib.Path:
    """The folder of the data (also gs://): `root`, or if that is empty the environment variable AHS_SEG_DATA.

    Raises ValueError if both are empty, or if a remote one cannot be reached.
    """
    chosen = str(root) or os.environ.get(ROOT_VARIABLE, "")
    if not chosen:
        raise ValueError(
            f"{field} is empty, and so is the environment variable {ROOT_VARIABLE}; name the data's folder"
        )
    check(chosen, field)
    return location(chosen)


def require(root: pathlib.Path, parts: Iterable[str]) -> None:
    """Raises FileNotFoundError, with what was looked for and what is there, unless all parts exist below the root."""
    missing = [part for part in parts if not (root / part).exists()]
    if missing:
        raise FileNotFoundError(f"{root} lacks {', '.join(missing)}; {there(root / missing[0])}")


def there(path: pathlib.Path) -> str:
    """What lies at the path, or if there is nothing, in the closest folder above it, in words."""
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return f"{folder} holds {some(names) or 'nothing'}"


def some(names: Sequence[Any]) -> str:
    """The first few of the names, and how many there are beyond."""
    listed = ", ".join(map(str, names[:LISTED]))
    return listed + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def pair_up(images: Mapping[str, pathlib.Path], labels: Mapping[str, Any]) -> Listing:
    """Pairs of the same key in its order; images without labels and labels without images are problems."""
    problems = []
    for kind, other, found, partners in (("image", "label", images, labels), ("label", "image", labels, images)):
        if lonely := sorted(found.keys() - partners.keys()):
            problems.append(f"{len(lonely)} {kind}(s) without {other}: {some(lonely)}")
    both = sorted(images.keys() & labels.keys())
    return Listing(tuple(Pair(key, images[key], labels[key]) for key in both), tuple(problems))


def by_stem(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """Files below the folder that match, by their path below it without suffix. Hidden files do not count."""
    paths = (path for path in folder.glob(pattern) if not path.name.startswith("."))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def packaged_numbers(file: str, dtype: type = np.int64) -> np.ndarray:
    """The numbers of a text file of this folder, one a line."""
    text = importlib.resources.files("ahs_seg_jax.data.benchmarks").joinpath(file).read_text("utf-8")
    return np.array(text.split(), dtype)
