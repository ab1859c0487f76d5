"""Text embeddings of vocabularies on disk, so that a machine encodes the many names of a vocabulary once.

A file holds the embeddings of one vocabulary by one text tower, and is named after the hash of both: other weights,
other words, templates or synonym rules, another state of this package or another kind of device have another file.
Where a file is damaged, its vocabulary is encoded again.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.errors import WriteError
from ahs_seg_jax.inference import encoding
from ahs_seg_jax.models import parameters
from ahs_seg_jax.storage import user_cache, writing
from ahs_seg_jax.versions import code_hash
from ahs_seg_jax.vocabulary import Vocabulary

VARIABLE = "AHS_SEG_TEXT_CACHE"  # a folder, or "off"
FEWEST = 16  # names; fewer are encoded about as fast as a file of them is found
MOST_BYTES = 256 << 20  # of all files together; ViT-B's embeddings of 847 names take 1.7 MB
SUFFIX = ".embeddings"
ABANDONED = 3600.0  # seconds after which nobody writes an unfinished file any more
Encode = Callable[[Any, Any, Vocabulary], Any]
_DIGEST = hashlib.sha256().digest_size


def default_folder() -> pathlib.Path | None:
    """The folder that the environment variable `AHS_SEG_TEXT_CACHE` names, or else one in this program's cache.

    None if that variable or the one of the whole cache (`AHS_SEG_CACHE`) is "off".
    """
    own, whole = (os.environ.get(name, "") for name in (VARIABLE, user_cache.VARIABLE))
    if "off" in (own.lower(), whole.lower() if not own else ""):
        return None
    return pathlib.Path(own) if own else (pathlib.Path(whole) if whole else user_cache.folder()) / "texts"


class TextCache:
    """Encodes vocabularies as `encoding.encode_vocabulary` does, and keeps those of many names in files of a folder."""

    def __init__(self, folder: pathlib.Path, most_bytes: int = MOST_BYTES, encode: Encode | None = None) -> None:
        """Files that have not been used for longest are deleted when all together exceed `most_bytes`.

        `encode` takes the place of `encoding.encode_vocabulary`.
        """
        self._folder, self._most_bytes, self._encode_by = folder, most_bytes, encode
        self._hashed: tuple[Any, str] = None, ""  # the parameters of the last call, and their hash

    def encode(self, model: Any, params: Any, vocabulary: Vocabulary) -> np.ndarray:
        """Text embeddings float32 `[q, p, e]`. Raises ValueError as `encoding.encode_vocabulary` does."""
        if len(vocabulary) < FEWEST:
            return self._encoded(model, params, vocabulary)
        path = self._folder / f"{self._key(model, params, vocabulary)}{SUFFIX}"
        if (found := _read(path)) is not None and len(found) == len(vocabulary.query_class):
            return found
        text = self._encoded(model, params, vocabulary)
        with contextlib.suppress(WriteError, OSError):  # a full or read-only disk costs time only
            self._write(path, text)
        return text

    def _encoded(self, model: Any, params: Any, vocabulary: Vocabulary) -> np.ndarray:
        return np.asarray((self._encode_by or encoding.encode_vocabulary)(model, params, vocabulary))

    def _key(self, model: Any, params: Any, vocabulary: Vocabulary) -> str:
        """Hash of all that the embeddings depend on."""
        if self._hashed[0] is not params:
            self._hashed = params, _hash_of_text_tower(params)
        config = model.config
        facts = (
            *(self._hashed[1], config.text, config.dtype, config.aggregator.prompts),
            *(vocabulary.names, vocabulary.templates, vocabulary.synonyms),
            *(jax.default_backend(), jax.devices()[0].device_kind, jax.__version__, code_hash()),
        )
        return hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _write(self, path: pathlib.Path, text: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, text, allow_pickle=False)
        data = content.getvalue()
        self._folder.mkdir(parents=True, exist_ok=True)
        writing.write_bytes(path, hashlib.sha256(data).digest() + data)
        self._bound(path)

    def _bound(self, newest: pathlib.Path) -> None:
        """Deletes the files that have not been used for longest, but not the newest, until the rest is small enough."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                about = path.stat()
                found.append((path == newest, about.st_mtime_ns, about.st_size, path))
        for path in self._folder.glob(f"*{SUFFIX}.*.unfinished"):  # of processes that were killed
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        total = sum(size for _, _, size, _ in found)
        for is_newest, _, size, path in sorted(found, key=lambda file: file[:2]):
            if total <= self._most_bytes or is_newest:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _read(path: pathlib.Path) -> np.ndarray | None:
    """The embeddings in a file, which counts as used now; None if there is no such file or it is damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        found = np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _hash_of_text_tower(params: Any) -> str:
    """Hash of CLIP's parameters without those of the image tower."""
    others = {name: part for name, part in params["clip"].items() if name != "image"}
    found = hashes.digests((name, np.asarray(leaf)) for name, leaf in parameters.flatten(others))
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
