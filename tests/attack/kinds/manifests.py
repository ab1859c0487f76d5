"""Manifests of converted directories whose content is changed, with and without the seal that belongs to them."""

import json
import pathlib

from ahs_seg_jax.checkpoints import converted, hashes, manifest
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.attack.kinds.checkpoints import converted_folder, equal


class Attack(Kind):
    mistakes = (CheckpointError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self._path = converted_folder(folder / "whole")
        self._content = json.loads((self._path / converted.MANIFEST).read_bytes())
        self._params = load_pretrained(self._path).params

    def run(self, rng):
        content = dict(self._content)
        sealed = rng.random() < 0.3  # as damage is; else as somebody writes who knows the format
        if not sealed and rng.random() < 0.5:
            del content[hashes.HASHES]
        content = mutations.change_json(content, rng)
        if not sealed and isinstance(content, dict):
            content.pop(hashes.SEAL, None)
            if rng.random() < 0.5 and hashes.HASHES in content:
                content = hashes.sealed(content)
        (self._path / converted.MANIFEST).write_bytes(mutations.json_text(content, rng))
        found = load_pretrained(self._path)
        if not equal(found.params, self._params):
            raise Silent("other numbers were loaded")
        if sealed and found.config != load_pretrained(self._path).config:
            raise Silent("another configuration was loaded")
        _ = found.templates, found.trained_names, found.protocol
        if found.training:
            manifest.stored_vocabulary(found.training)

    def is_clear(self, said):
        return len(said) > 30 and any(part in said for part in ("whole", "metadata", "manifest"))
