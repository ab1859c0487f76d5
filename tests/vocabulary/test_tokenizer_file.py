"""Tokens by another program's tokenizer.json, of the kind that SigLIP 2 has: Gemma's pieces, <pad> 0, <eos> 1."""

import numpy as np
import pytest

from ahs_seg_jax.vocabulary import Vocabulary
from ahs_seg_jax.vocabulary.tokenizer import TextTooLong, tokenize
from tests.support.tokenizer_files import write_tokenizer


@pytest.fixture
def path(tmp_path):
    return write_tokenizer(tmp_path / "tokenizer.json")


def test_ids_by_hand(path):
    # a b c ... z are 4 to 29, the blank (a lower one eighth block) is 30, "ca" is 31 and "cat" 32.
    found = tokenize(["Cat", "  a  CAB ", "cat a"], 7, path)
    np.testing.assert_array_equal(found, [[32, 1, 0, 0, 0, 0, 0], [4, 30, 31, 5, 1, 0, 0], [32, 30, 4, 1, 0, 0, 0]])
    assert found.dtype == np.int32


def test_vocabulary(path):
    tokens = Vocabulary(("cat", "cab"), ("a {}",)).tokens(64, path)
    np.testing.assert_array_equal(tokens[:, 0, :5], [[4, 30, 32, 1, 0], [4, 30, 31, 5, 1]])


def test_too_long_and_special(path):
    with pytest.raises(TextTooLong, match="'zebra' takes 6 tokens; the context holds 5"):
        tokenize(["cat", "zebra"], 5, path)
    with pytest.raises(ValueError, match="the text 'a <EOS> b' spells the special token <eos>"):
        tokenize(["a <EOS> b"], 9, path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"there is no tokenizer at 'nowhere.json' \(model.text.tokenizer\)"):
        tokenize(["cat"], 7, "nowhere.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is no tokenizer\.json that can be read"):
        tokenize(["cat"], 7, str(tmp_path / "a.json"))
    other = write_tokenizer(tmp_path / "b.json", special=("<s>", "</s>"))
    with pytest.raises(ValueError, match="another kind: its id 0 is '<s>' and its end token missing"):
        tokenize(["cat"], 7, other)
