"""Tokens: CLIP's byte pairs, or those of another program's tokenizer.json.

CLIP's are transformers' `CLIPTokenizer` over the packaged merges, after OpenAI's text cleaning. Parity:
golden/tokenizer.json. Loading takes a fraction of a second and happens at the first use.
"""

import functools
import gzip
import html
import importlib.resources
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer


CLIP = "clip"  # the name of the packaged tokenizer
TOKENIZER = "tokenizer.json"  # any other, by the name it has beside the weights it belongs to
START, END = "<|startoftext|>", "<|endoftext|>"


class TextTooLong(ValueError):
    """Texts that do not fit the context. `lengths` maps each to its number of tokens, start and end included."""

    def __init__(self, lengths: dict[str, int], context: int):
        self.lengths = lengths
        listed = "; ".join(f"{text!r} takes {n} tokens" for text, n in lengths.items())
        super().__init__(f"{listed}; the context holds {context}, start and end included. Shorten the text.")


def clean(text: str) -> str:
    """`text` as CLIP's tokenizer reads it: in lower case, Unicode and HTML entities repaired, single spaces.

    Raises ValueError if the result spells one of the special tokens, which would end the text early.
    """
    cleaned = " ".join(repaired(text).split()).lower()
    for special in (START, END):
        if special in cleaned:
            raise ValueError(f"the text {text!r} spells CLIP's special token {special}; remove it")
    return cleaned


def repaired(text: str) -> str:
    """`text` with its Unicode and HTML entities in order: composed letters, no full-width ones, no control codes."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # there is nothing to repair, and nothing to import for it
    import ftfy  # here, because importing it takes longer than importing this package

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def encode(text: str) -> list[int]:
    """Token ids of one text, start and end included, as long as the text needs.

    Raises ValueError if the text spells a special token.
    """
    return _tokenizer()(clean(text), verbose=False)["input_ids"]


def tokenize(texts: Sequence[str], context: int = 77, tokenizer: str = CLIP) -> np.ndarray:
    """Token ids `int32 [n, context]`, then zeros (parity: OpenAI CLIP pads with 0, and so does SigLIP 2).

    `tokenizer` is "clip" or the path of a tokenizer.json of one of `KINDS`. The last id that is not 0 is the end token,
    also where the start token is 0 (XLM-V). Raises TextTooLong, which lists every text that does not fit; nothing is
    ever cut. Raises ValueError if a text spells a special token.
    """
    if not texts:
        return np.zeros((0, context), np.int32)
    if tokenizer == CLIP:
        encoded = _tokenizer()([clean(text) for text in texts], verbose=False)["input_ids"]
    else:
        encoded = _by_file(texts, tokenizer)
    too_long = {text: len(ids) for text, ids in zip(texts, encoded, strict=True) if len(ids) > context}
    if too_long:
        raise TextTooLong(too_long, context)
    tokens = np.zeros((len(texts), context), np.int32)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    return tokens


def lengths(tokens: np.ndarray) -> np.ndarray:
    """How many ids of each row of `int32 [n, l]` there are up to the end token, the last that is not 0."""
    return tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(1)


class _Kind(NamedTuple):
    """A kind of tokenizer.json: the tokens of its first ids, by which it is told, and what stands around a text."""

    first: tuple[str, ...]
    start: tuple[int, ...]
    end: str
    lower: bool


KINDS = {
    "SigLIP 2": _Kind(("<pad>",), (), "<eos>", lower=True),  # Gemma's; parity: its processor's lower-casing
    "MetaCLIP 2": _Kind(("<s>", "<pad>", "</s>"), (0,), "</s>", lower=False),  # XLM-V's
}


def _by_file(texts: Sequence[str], path: str) -> list[list[int]]:
    """Ids with the start token before them, if the kind has one, and the end token behind them."""
    found, kind, end = _from_file(path)
    cleaned = [" ".join(repaired(text).split()) for text in texts]
    if kind.lower:
        cleaned = [text.lower() for text in cleaned]
    special = [token.content for token in found.get_added_tokens_decoder().values() if token.special]
    for text, words in zip(texts, cleaned, strict=True):
        if spelt := [token for token in special if token in words]:
            raise ValueError(f"the text {text!r} spells the special token {spelt[0]}; remove it")
    return [[*kind.start, *row.ids, end] for row in found.encode_batch(cleaned, add_special_tokens=False)]


@functools.lru_cache(maxsize=2)
def _from_file(path: str) -> "tuple[Tokenizer, _Kind, int]":
    """A tokenizer, its kind and its end token. Raises ValueError if the file is missing, damaged or of another kind."""
    from tokenizers import Tokenizer

    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"there is no tokenizer at {path!r} (model.text.tokenizer); it is tokenizer.json of the repository "
            "that the weights come from"
        )
    try:
        found = Tokenizer.from_file(path)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{path} is no tokenizer.json that can be read ({error})") from error
    for kind in KINDS.values():
        end = found.token_to_id(kind.end)
        if end is not None and tuple(found.id_to_token(i) for i in range(len(kind.first))) == kind.first:
            found.no_truncation()
            found.no_padding()
            return found, kind, end
    described = "; ".join(f"{name}'s begins with {', '.join(k.first)} and has {k.end}" for name, k in KINDS.items())
    begins = ", ".join(str(found.id_to_token(i)) for i in range(3))
    raise ValueError(f"{path} is a tokenizer of another kind: it begins with {begins}; {described}")


@functools.lru_cache(maxsize=1)
def _tokenizer() -> "CLIPTokenizer":
    # It would advise every user without PyTorch that its models, which nobody asked for, are missing.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    data = importlib.resources.files("ahs_seg_jax.vocabulary").joinpath("bpe_merges.txt.gz").read_bytes()
    # Pairs, as the tokenizer wants them; its annotation asks for strings.
    merges: Any = [tuple(line.split()) for line in gzip.decompress(data).decode("utf-8").splitlines()]
    symbols = _byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges)


def _byte_symbols() -> list[str]:
    """The 256 characters that stand for the bytes, in the order of CLIP's vocabulary.

    Printable Latin-1 bytes stand for themselves and come first; the others take the code points from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]
