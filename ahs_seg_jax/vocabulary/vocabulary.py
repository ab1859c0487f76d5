"""Class names and what follows from them: prompts, tokens, hash, colours, and pairs of related classes."""

import collections
import dataclasses
import functools
import hashlib
import importlib.resources
import pathlib
import typing
import unicodedata
from typing import Any

import numpy as np

from ahs_seg_jax.vocabulary import tokenizer as tokenizers

IGNORE = -1  # label of a pixel that has no class

SCENE_TEMPLATE = "A photo of a {} in the scene"
TOKEN_BUCKETS = (8, 12, 16, 24, 32, 48, 64, 77)
SYNONYM_RULES = ("first", "mean", "best")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """An ordered list of class names, and how they become prompts.

    A name may list synonyms separated by ", ". Rule "first" uses the first only (parity: CAT-Seg); rule "mean" embeds
    each and averages the embeddings on the sphere (`pool`); rule "best" makes each a query of its own, and a class is
    as probable as its most probable query (parity: training-free methods). With several `templates`, such as
    `imagenet_templates()`, the embedding of a query is the mean over its prompts. `groups`, if given, names a broader
    category for each class (such as COCO-Stuff's supercategories; "" = none): `hierarchy_pairs` reads them.

    Raises ValueError, listing every problem at once: no names, an empty name, a line break, control character or
    special token in a name, a template without exactly one "{}"; and two names that CLIP's tokens cannot tell apart:
    case, space and Unicode's ways of writing a letter (composed or not, full-width) do not count, nor, by the rule
    "first", do further synonyms.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = (SCENE_TEMPLATE,)
    synonyms: str = "first"
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [*_name_problems(self.names), *template_problems(self.templates)]
        if self.synonyms == "first":
            problems += _prompt_problems(self.names)
        if self.synonyms not in SYNONYM_RULES:
            problems.append(f"the synonym rule is {self.synonyms!r}; choose one of {', '.join(SYNONYM_RULES)}")
        if self.groups and len(self.groups) != len(self.names):
            problems.append(f"there are {len(self.groups)} groups for {len(self.names)} names; give one for each")
        if problems:
            raise ValueError("\n".join([f"the vocabulary has {len(problems)} problem(s):", *_indent(problems)]))

    @classmethod
    def from_file(cls, path: str | pathlib.Path, **settings: Any) -> "Vocabulary":
        """The names of a UTF-8 text file, one a line, in the order of their indices. `settings` as the constructor's.

        Raises FileNotFoundError, and ValueError as the constructor, with the file's name.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no file of class names at {path}; it should hold one name a line")
        try:
            return cls(_lines(path.read_text("utf-8-sig")), **settings)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def named(cls, name: str, **settings: Any) -> "Vocabulary":
        """The packaged names of a benchmark: `lists/<name>.txt`. `settings` as the constructor's.

        Raises ValueError for another name.
        """
        if name not in (known := packaged_names()):
            raise ValueError(f"there is no packaged vocabulary {name!r}; choose one of {', '.join(known)}")
        names = _lines(_read(f"lists/{name}.txt"))
        if name == "coco_stuff":
            table = dict(line.split("\t") for line in _lines(_read("lists/coco_stuff_groups.tsv")))
            settings.setdefault("groups", tuple(table[n] for n in names))
        return cls(names, **settings)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sha256(self) -> str:
        """Hash of the names joined by line breaks, as in the table of evaluation protocols."""
        return hashlib.sha256("\n".join(self.names).encode("utf-8")).hexdigest()

    def seen_by(self, training: "Vocabulary") -> np.ndarray:
        """`bool [t]`: whether each class's first synonym is the first synonym of a class of `training` (any case)."""
        known = {_key(first_synonym(name)) for name in training.names}
        return np.array([_key(first_synonym(name)) in known for name in self.names])

    @property
    def query_class(self) -> np.ndarray:
        """`int32 [q]`, ascending: the class of each query. Under the rules "first" and "mean" a class is one query."""
        return np.array([index for index, _ in self._queries], np.int32)

    @functools.cached_property
    def _queries(self) -> list[tuple[int, list[str]]]:
        """For each query its class and the words that are averaged."""
        variants = [(index, self._variants(name)) for index, name in enumerate(self.names)]
        if self.synonyms != "best":
            return variants
        return [(index, [word]) for index, words in variants for word in words]

    def prompts(self) -> list[list[str]]:
        """For each query its p prompts, p = templates x (the most synonyms of any class, under rule "mean").

        A class with fewer synonyms repeats its first: `prompt_weights` gives the repetitions weight 0.
        """
        most = max(len(words) for _, words in self._queries)
        filled = [words + words[:1] * (most - len(words)) for _, words in self._queries]
        return [[template.format(word) for word in words for template in self.templates] for words in filled]

    @property
    def prompt_weights(self) -> np.ndarray:
        """`float32 [q, p]`: the share of each prompt in its query's embedding; rows sum to 1."""
        counts = np.array([len(words) for _, words in self._queries])
        used = np.arange(counts.max())[None, :] < counts[:, None]
        weights = np.repeat(used / counts[:, None], len(self.templates), axis=1) / len(self.templates)
        return weights.astype(np.float32)

    def pool(self, text: Any, queries: Any = slice(None)) -> Any:
        """Embeddings of all prompts `[q, p, e]`, L2-normalised, averaged on the sphere to `[q, 1, e]`.

        `queries` are the indices of those that `text` has, if not all. Works on NumPy and JAX arrays. With one template
        and rule "first" it returns `text` as it is.
        """
        if text.shape[1] == 1:
            return text
        mean = (text * self.prompt_weights[queries][:, :, None]).sum(axis=1, keepdims=True)
        return mean / ((mean * mean).sum(axis=-1, keepdims=True) ** 0.5)

    def tokens(self, context: int = 77, tokenizer: str = tokenizers.CLIP) -> np.ndarray:
        """Token ids `int32 [q, p, l]` of all prompts, 0-padded; l = the longest prompt, rounded up to a bucket.

        The shorter l changes no embedding: a causal tower does not see what comes after, any other fills up its
        context (method: encode only what the prompts need). `tokenizer` is "clip" or the path of a tokenizer.json.
        Raises ValueError that names every class whose prompt exceeds `context` tokens.
        """
        prompts = self.prompts()
        try:
            tokens = tokenizers.tokenize([prompt for row in prompts for prompt in row], context, tokenizer)
        except tokenizers.TextTooLong as error:
            raise ValueError(self._too_long(error.lengths, prompts, context)) from error
        longest = int(tokenizers.lengths(tokens).max())
        bucket = min(next((b for b in TOKEN_BUCKETS if b >= longest), context), context)
        return tokens[:, :bucket].reshape(len(prompts), -1, bucket)

    def _variants(self, name: str) -> list[str]:
        return [first_synonym(name)] if self.synonyms == "first" else [s for s in name.split(", ") if s.strip()]

    def _too_long(self, lengths: dict[str, int], prompts: list[list[str]], context: int) -> str:
        found = []
        for (index, _), row in zip(self._queries, prompts, strict=True):
            most = max((lengths.get(prompt, 0) for prompt in row), default=0)
            if most:
                found.append(f"class {self.names[index]!r} makes a prompt of {most} tokens")
        return "\n".join(
            [f"the text context holds {context} tokens, start and end included; shorten these names:", *_indent(found)]
        )


def packaged_names() -> tuple[str, ...]:
    """What `Vocabulary.named` knows: the benchmarks whose class names lie in the folder `lists`."""
    folder = importlib.resources.files("ahs_seg_jax.vocabulary").joinpath("lists")
    return tuple(sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt")))


def imagenet_templates() -> tuple[str, ...]:
    """CLIP's ensemble of 80 prompt templates, an alternative to the one of `SCENE_TEMPLATE`."""
    return _lines(_read("imagenet_templates.txt"))


def split_words(text: str) -> list[str]:
    """Names one a line or separated by ';', synonyms by ','; empty ones are left out."""
    names = (", ".join(part.strip() for part in name.split(",")) for name in text.replace("\n", ";").split(";"))
    return [name for name in names if name.strip(" ,")]


def first_synonym(name: str) -> str:
    """The part of a class name before its first ", "."""
    return name.split(", ")[0]


def plain_name(name: str) -> str:
    """A name as people mean it: no blanks around it, no full stop behind it, which other tools want ("cat .").

    Of synonyms, each. The full stops of an abbreviation ("U.S.") stay.
    """
    return ", ".join(_plain(word) for word in name.split(", "))


def _plain(word: str) -> str:
    bare = word.strip().rstrip(". ")
    follows = word.strip()[len(bare) :]
    abbreviation = follows.startswith(".") and "." in bare.rsplit(" ", 1)[-1]
    return f"{bare}." if abbreviation else bare


def words_of(names: typing.Iterable[str]) -> frozenset[str]:
    """Every word of the names, in lower case (`str.casefold`)."""
    return frozenset(word for name in names for word in name.casefold().split())


def names_beyond(names: typing.Iterable[str], words: typing.Collection[str]) -> list[str]:
    """The names whose first synonym holds another word than these (`words_of`)."""
    return [name for name in names if not words_of([first_synonym(name)]) <= set(words)]


def hierarchy_pairs(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Related classes for DC-HSP's hierarchy loss: (parent and child `int32 [n, 2]`, siblings `int32 [m, 2]`).

    Siblings are two classes of the same group. A class that is called like a group is the parent of its other members.
    Both are empty for a vocabulary without groups.
    """
    members: dict[str, list[int]] = collections.defaultdict(list)
    for index, group in enumerate(vocabulary.groups):
        if group:
            members[group].append(index)
    parents: list[tuple[int, int]] = []
    siblings: list[tuple[int, int]] = []
    for group, indices in members.items():
        parent = next((i for i, name in enumerate(vocabulary.names) if _key(name) == _key(group)), None)
        children = [i for i in indices if i != parent]
        if parent is not None:
            parents.extend((parent, child) for child in children)
        siblings.extend((a, b) for k, a in enumerate(children) for b in children[k + 1 :])
    return np.array(parents, np.int32).reshape(-1, 2), np.array(siblings, np.int32).reshape(-1, 2)


def _name_problems(names: tuple[str, ...]) -> list[str]:
    if not names:
        return ["there are no class names; give at least one"]
    problems = []
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        key = _key(name)
        if not _key(first_synonym(name)):
            problems.append(f"name {index + 1} is empty ({name!r}); remove the line or fill it in")
        elif key in seen:
            problems.append(f"name {index + 1}, {name!r}, repeats name {seen[key] + 1}, {names[seen[key]]!r}")
        if "\n" in name or "\r" in name:
            problems.append(f"name {index + 1}, {name!r}, holds a line break; names are one a line")
        elif controls := [letter for letter in name if _is_control(letter)]:
            problems.append(f"name {index + 1}, {name!r}, holds the control character {controls[0]!r}; remove it")
        for special in (tokenizers.START, tokenizers.END):
            if special in tokenizers.repaired(name).lower():
                problems.append(f"name {index + 1}, {name!r}, spells CLIP's special token {special}")
        seen.setdefault(key, index)
    return problems


def _prompt_problems(names: tuple[str, ...]) -> list[str]:
    """Different names whose first synonyms are equal, and their prompts with them: the second could never win.

    Published lists have some, which scores are defined with.
    """
    problems = []
    seen: dict[str, str] = {}
    for index, name in enumerate(names):
        first = seen.setdefault(_key(first_synonym(name)), name)
        if first_synonym(name).strip() and _key(first) != _key(name) and not _published(first, name):
            problems.append(
                f"name {index + 1}, {name!r}, has the same first synonym as {first!r}, so that no pixel could get it; "
                "put another synonym first"
            )
    return problems


def _published(*names: str) -> bool:
    """Whether a packaged list has all these names."""
    return any(set(names) <= set(_lines(_read(f"lists/{known}.txt"))) for known in packaged_names())


def _is_control(letter: str) -> bool:
    """Characters without a meaning in a name, most of which no XML file may hold; tabs are spaces."""
    return letter != "\t" and (unicodedata.category(letter) in ("Cc", "Cs") or letter in "\ufffe\uffff")


def template_problems(templates: tuple[str, ...]) -> list[str]:
    """Why these cannot be a vocabulary's templates, one sentence each."""
    if not templates:
        return ["there are no prompt templates; give at least one"]
    return [f"template {t!r} must hold exactly one {{}} for the name" for t in templates if not _is_template(t)]


def _is_template(template: str) -> bool:
    return template.count("{}") == 1 and template.count("{") == template.count("}") == 1


@functools.lru_cache(4096)
def _key(name: str) -> str:
    """What names are compared by: texts of equal tokens have equal ones."""
    return " ".join(unicodedata.normalize("NFKC", tokenizers.repaired(name)).split()).casefold()


def _indent(lines: typing.Iterable[str]) -> list[str]:
    return [f"  - {line}" for line in lines]


def _lines(text: str) -> tuple[str, ...]:
    # Only line ends are taken off: the hashes of the benchmarks' names count their spaces.
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)


@functools.cache
def _read(file: str) -> str:
    """A text file of this folder."""
    return importlib.resources.files("ahs_seg_jax.vocabulary").joinpath(file).read_text("utf-8")
