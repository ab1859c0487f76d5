"""The package as a whole: what `import ahs_seg_jax` brings, and what it does not."""

import subprocess
import sys

import pytest

import ahs_seg_jax
from ahs_seg_jax import versions


def test_public_names():
    from ahs_seg_jax.inference.native_windows import NativeWindows
    from ahs_seg_jax.segmenter import Segmenter
    from ahs_seg_jax.vocabulary import Vocabulary

    assert (ahs_seg_jax.Segmenter, ahs_seg_jax.Vocabulary) == (Segmenter, Vocabulary)
    assert ahs_seg_jax.NativeWindows is NativeWindows
    with pytest.raises(AttributeError, match="module 'ahs_seg_jax' has no attribute 'Segmentor'"):
        getattr(ahs_seg_jax, "Segmentor")  # noqa: B009


def test_importing_the_package_imports_no_framework():
    code = "import sys, ahs_seg_jax; print(sorted({'jax', 'flax', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "statement",
    [
        "from ahs_seg_jax import Segmenter",
        "from ahs_seg_jax.errors import CheckpointError",
        "import ahs_seg_jax.checkpoints",
        "import ahs_seg_jax.checkpoints.manifest",
        "import ahs_seg_jax; ahs_seg_jax.Segmenter.from_pretrained('tiny')",
    ],
)
def test_reading_checkpoints_and_data_is_imported_where_it_is_done(statement):
    """They take seconds, and neither a model in memory nor a file of weights needs them."""
    heavy = "{'orbax.checkpoint', 'tensorflow_datasets', 'grain'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_versions_name_what_is_installed_and_nothing_else(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("numpy", "no-such-package"))
    found = versions.versions()
    assert set(found) == {"python", "ahs_seg_jax", "numpy"}
    assert found["ahs_seg_jax"] == ahs_seg_jax.__version__
    assert set(versions.versions(("pillow", "nor-this"))) == {*found, "pillow"}
