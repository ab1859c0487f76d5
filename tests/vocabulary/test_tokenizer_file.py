"""Tokens by another program's tokenizer.json: SigLIP 2's (Gemma's, <pad> 0, <eos> 1) and MetaCLIP 2's (XLM-V's)."""

import numpy as np
import pytest

from ahs_seg_jax.vocabulary import Vocabulary
from ahs_seg_jax.vocabulary.tokenizer import TextTooLong, lengths, tokenize
from tests.support.tokenizer_files import XLM_V, write_tokenizer


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


def test_metaclip2_by_hand_and_as_transformers(tmp_path):
    """<s> 0 stands before, </s> 2 behind; the case of letters is kept, and what has no piece is <unk> 3."""
    path = write_tokenizer(tmp_path / "tokenizer.json", XLM_V)
    found = tokenize(["cat", "  a  cab ", "Cat a"], 8, path)
    np.testing.assert_array_equal(
        found, [[0, 32, 2, 0, 0, 0, 0, 0], [0, 4, 30, 31, 5, 2, 0, 0], [0, 3, 4, 23, 30, 4, 2, 0]]
    )
    np.testing.assert_array_equal(lengths(found), [3, 6, 7])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=path, pad_token="<pad>", eos_token="</s>")
    for row, text in zip(found, ["cat", "a cab", "Cat a"], strict=True):
        ids = theirs(text)["input_ids"]
        np.testing.assert_array_equal(row[: len(ids)], ids)
    tokens = Vocabulary(("cat", "cab"), ("a {}",)).tokens(64, path)
    np.testing.assert_array_equal(tokens[:, 0, :6], [[0, 4, 30, 32, 2, 0], [0, 4, 30, 31, 5, 2]])
    exactly_a_bucket = Vocabulary(("bbbbbb", "b"), ("{}",)).tokens(64, path)  # eight ids, the first of them 0
    np.testing.assert_array_equal(exactly_a_bucket[0, 0, :8], [0, 5, 5, 5, 5, 5, 5, 2])
    with pytest.raises(ValueError, match="the text 'a </s> b' spells the special token </s>"):
        tokenize(["a </s> b"], 9, path)


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
    with pytest.raises(ValueError, match="another kind: it begins with <s>, </s>, a; SigLIP 2's begins with <pad>"):
        tokenize(["cat"], 7, other)
