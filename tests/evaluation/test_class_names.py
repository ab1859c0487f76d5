"""Class names from the user's disk: which file, what must fit, what results say about it."""

import hashlib

import numpy as np
import pytest

from ahs_seg_jax.evaluation import class_names
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from tests.support.color_model import COLORS, ListSource, filled


def source() -> ListSource:
    return ListSource([0], [filled(4, 6, 0)])


def merging() -> ListSource:
    """Four predicted names, of which red is scored, and all others as background."""
    found = source()
    found.merge_predictions, found.scored_names = np.array([0, 1, 1, 1], np.int32), ("red", "background")
    return found


def test_names_and_synonyms_of_a_file_or_of_a_folder(tmp_path):
    (tmp_path / "voc_21.txt").write_text("rose,crimson\ngreen \nnavy\nheaven\n")
    for given in (tmp_path / "voc_21.txt", tmp_path):
        changed = source()
        changed.vocabulary = type(changed.vocabulary)(COLORS, templates=("a {}",), synonyms="mean")
        class_names.use(changed, given, "voc_21")
        assert changed.vocabulary.names == ("rose, crimson", "green", "navy", "heaven")
        assert (changed.vocabulary.templates, changed.vocabulary.synonyms) == (("a {}",), "mean")
        facts = class_names.described(given, "voc_21")
        assert facts == {
            "file": "voc_21.txt",
            "sha256": hashlib.sha256((tmp_path / "voc_21.txt").read_bytes()).hexdigest(),
            "queries": 5,
        }
    assert class_names.described("", "voc_21") is None


def test_another_number_of_names_is_refused(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("red\ngreen\nblue\n")
    with pytest.raises(ValueError, match=r"names.txt names 3 classes where voc_21 has 4; it needs one each, .*'red', "):
        class_names.use(source(), path, "voc_21")
    with pytest.raises(FileNotFoundError, match=r"no file of class names at .*voc_20\.txt"):
        class_names.use(source(), tmp_path, "voc_20")


def test_background_words_may_be_others_in_any_number(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("red\nwall\nsky\n")
    changed = merging()
    class_names.use(changed, path, "voc_20b")
    changed.merge_predictions = np.array([0, 1, 1], np.int32)  # as a prepared source makes them from its names
    assert ScoredClasses.of(changed).vocabulary.names == ("red", "background")
    path.write_text("red\n")
    with pytest.raises(ValueError, match=r"names 1 classes where voc_20b has 2; it needs at least 2 lines, of which"):
        class_names.use(merging(), path, "voc_20b")
