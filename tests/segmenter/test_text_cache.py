"""Text embeddings on disk: found again by the same weights and words only, damaged files, bounds, switches."""

import concurrent.futures
import os

import jax
import numpy as np
import pytest

from ahs_seg_jax.inference import encoding
from ahs_seg_jax.segmenter import Segmenter, text_cache
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.small import inference_model, random_params

CONFIG = inference_model(adaptation="none")
NAMES = tuple(f"thing {number}" for number in range(text_cache.FEWEST))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("AHS_SEG_TEXT_CACHE", str(tmp_path / "texts"))
    return tmp_path / "texts"


@pytest.fixture
def encoded(monkeypatch):
    """The vocabularies that were encoded; their embeddings are made from their names and the weights."""
    found = []

    def encode(model, params, vocabulary, *rest, **options):
        found.append(vocabulary)
        first = float(np.asarray(jax.tree.leaves(params["clip"]["text"])[0]).flat[0])
        return np.float32([[[len(name) + first, index]] for index, name in enumerate(vocabulary.names)])

    monkeypatch.setattr(encoding, "encode_vocabulary", encode)
    return found


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


def changed(params, part: str):
    """Another first number in a part of CLIP."""
    tower = jax.tree.map(np.copy, params["clip"][part])
    jax.tree.leaves(tower)[0].flat[0] += 1
    return params | {"clip": params["clip"] | {part: tower}}


def files(folder):
    return sorted(folder.glob("*"))


def test_words_are_encoded_once_on_a_machine(folder, encoded, params):
    first = Segmenter(CONFIG, params).encode_prompts(Vocabulary(NAMES))
    assert len(encoded) == len(files(folder)) == 1
    again = Segmenter(CONFIG, params).encode_prompts(Vocabulary(NAMES))  # as another process would
    assert len(encoded) == 1
    np.testing.assert_array_equal(first, again)
    assert again.dtype == np.float32


def test_nothing_else_has_the_same_file(folder, encoded, params):
    Segmenter(CONFIG, params).set_vocabulary(NAMES)
    Segmenter(CONFIG, changed(params, "image")).set_vocabulary(NAMES)
    assert len(encoded) == 1, "the image tower has no part in it"
    Segmenter(CONFIG, changed(params, "text")).set_vocabulary(NAMES)
    Segmenter(CONFIG, params).set_vocabulary((*NAMES[:-1], "another"))
    Segmenter(CONFIG, params).set_vocabulary(NAMES[::-1])
    Segmenter(CONFIG, params, templates=("a {}",)).set_vocabulary(NAMES)
    Segmenter(CONFIG.replace(dtype="bfloat16"), params).set_vocabulary(NAMES)
    assert len(encoded) == len(files(folder)) == 6


def test_few_names_leave_no_file(folder, encoded, params):
    Segmenter(CONFIG, params).set_vocabulary(NAMES[:-1])
    assert len(encoded) == 1
    assert not files(folder)


@pytest.mark.parametrize("damage", [lambda c: c[:50], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b""])
def test_damaged_file_is_made_again(folder, encoded, params, damage):
    expected = Segmenter(CONFIG, params).encode_prompts(Vocabulary(NAMES))
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    np.testing.assert_array_equal(Segmenter(CONFIG, params).encode_prompts(Vocabulary(NAMES)), expected)
    assert len(encoded) == 2
    assert path.read_bytes() == whole


def test_files_that_were_used_longest_ago_go_first(tmp_path, encoded, params):
    model = Segmenter(CONFIG, params, text_cache=False).engine.model
    words = [Vocabulary(tuple(f"{name} {number}" for name in NAMES)) for number in range(3)]
    text_cache.TextCache(tmp_path).encode(model, params, words[0])
    cache = text_cache.TextCache(tmp_path, most_bytes=2 * files(tmp_path)[0].stat().st_size)
    cache.encode(model, params, words[1])
    cache.encode(model, params, words[0])  # used again
    cache.encode(model, params, words[2])
    assert len(files(tmp_path)) == 2
    encoded.clear()
    for index in (0, 2, 1):
        cache.encode(model, params, words[index])
    assert encoded == [words[1]]
    text_cache.TextCache(tmp_path, most_bytes=1).encode(model, params, words[0].__class__(NAMES))
    assert len(files(tmp_path)) == 1, "the newest stays"


def test_writers_beside_each_other_and_killed_ones(tmp_path, encoded, params):
    model, words = Segmenter(CONFIG, params, text_cache=False).engine.model, Vocabulary(NAMES)
    left = [tmp_path / f"{age}.embeddings.0123abcd.unfinished" for age in ("old", "new")]
    for path in left:
        path.write_bytes(b"half a")
    os.utime(left[0], (1, 1))
    cache = lambda _: text_cache.TextCache(tmp_path).encode(model, params, words)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(cache, range(24)))
    for text in found:
        np.testing.assert_array_equal(text, found[0])
    assert [path.suffix for path in files(tmp_path)].count(".embeddings") == 1
    assert [path for path in left if path.exists()] == left[1:]
    encoded.clear()
    cache(0)
    assert encoded == []


def test_another_kind_of_device_has_its_own_file(folder, encoded, params, monkeypatch):
    class Other:
        device_kind = "another"

    Segmenter(CONFIG, params).set_vocabulary(NAMES)
    segmenter = Segmenter(CONFIG, params)
    monkeypatch.setattr(text_cache.jax, "devices", lambda: [Other])
    segmenter.set_vocabulary(NAMES)
    assert len(encoded) == len(files(folder)) == 2


def test_switched_off_or_unwritable(monkeypatch, tmp_path, folder, encoded, params):
    Segmenter(CONFIG, params, text_cache=False).set_vocabulary(NAMES)
    monkeypatch.setenv("AHS_SEG_TEXT_CACHE", "off")
    Segmenter(CONFIG, params).set_vocabulary(NAMES)
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AHS_SEG_TEXT_CACHE", str(tmp_path / "file"))  # no folder can be made there
    assert len(Segmenter(CONFIG, params).encode_prompts(Vocabulary(NAMES))) == len(NAMES)
    assert len(encoded) == 3


def test_folder_by_variables_and_by_custom(monkeypatch, tmp_path):
    for name in ("AHS_SEG_TEXT_CACHE", "AHS_SEG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert text_cache.default_folder() == tmp_path / "ahs_seg_jax" / "texts"
    monkeypatch.setenv("AHS_SEG_CACHE", str(tmp_path / "all"))
    assert text_cache.default_folder() == tmp_path / "all" / "texts"
    monkeypatch.setenv("AHS_SEG_CACHE", "off")
    assert text_cache.default_folder() is None
    monkeypatch.setenv("AHS_SEG_TEXT_CACHE", str(tmp_path / "own"))
    assert text_cache.default_folder() == tmp_path / "own"
    monkeypatch.setenv("AHS_SEG_TEXT_CACHE", "OFF")
    assert text_cache.default_folder() is None
