"""Class names of any characters: accepted ones have tokens of their own, and can be written everywhere."""

import json
from xml.etree import ElementTree

from ahs_seg_jax.cli import options
from ahs_seg_jax.vocabulary import Vocabulary, first_synonym
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent

PIECES = (
    *(
        "cat",
        "Cat",
        "CAT",
        "caf\u00e9",
        "cafe\u0301",
        "\uff43\uff41\uff54",
        "of\ufb01ce",
        "stra\u00dfe",
        "strasse",
        "\u72d7",
    ),
    *("\u200b", "\u200d", "\u202e", "\ufeff", "\u00a0", "\u2028", "\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\ud800"),
    *("\ufffe", "\U0001f600", "\U0001f468\u200d\U0001f469", "&amp;", "&lt;", "&#0;", "&#xD800;", "<", ">", "{}", "{0}"),
    *("<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "%s", "../", "/", "\\", "'", '"', ";", ",", ", ", " ", "\t"),
    *(
        "\n",
        "\r",
        "a",
        "1",
        "\u00b2",
        "\u0663",
        "\u0e01\u0e33",
        "\u1100\u1161",
        "\uac00",
        "\u0130",
        "i\u0307",
        "\u00e2\u20ac\u2122",
    ),
    *("x" * 300, "\u0301" * 50, "nan", "None", "true"),
)


class Attack(Kind):
    mistakes = (ValueError,)

    def run(self, rng):
        count = int(rng.integers(1, 9))
        letters = lambda: chr(int(rng.integers(1, 0x110000)))
        piece = lambda: letters() if rng.random() < 0.15 else mutations.pick(rng, PIECES)
        names = tuple("".join(piece() for _ in range(int(rng.integers(0, 4)))) for _ in range(count))
        if rng.random() < 0.3:
            names = options.split_names(";".join(names))
        words = Vocabulary(names)
        tokens = words.tokens()
        if len({row.tobytes() for row in tokens}) < len({first_synonym(name) for name in names}):
            raise Silent(f"equal tokens among {names!r}")
        element = ElementTree.Element("a")
        element.text = "".join(names)
        ElementTree.fromstring(ElementTree.tostring(element))
        json.dumps(names, ensure_ascii=False).encode()

    def is_clear(self, said):
        return any(part in said for part in ("name ", "class ", "special token", "no class names"))
