"""Names of places on the hub."""

import pytest

from ahs_seg_jax.checkpoints.hub.names import HubName, parse
from ahs_seg_jax.errors import CheckpointError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubName("owner/name")),
        ("owner/name@v1.0", HubName("owner/name", revision="v1.0")),
        ("owner/name@refs/pr/2", HubName("owner/name", revision="refs/pr/2")),
        ("owner/name/model.pth", HubName("owner/name", file="model.pth")),
        ("owner/name@v1/a/b.pth", HubName("owner/name", revision="v1", file="a/b.pth")),
        ("owner/name@feature%2Fx/b.pth", HubName("owner/name", revision="feature/x", file="b.pth")),
        ("spaces/owner/name/model.pth", HubName("owner/name", "space", file="model.pth")),
        ("hf://owner/name", HubName("owner/name")),
        ("hf://models/owner/name@v1", HubName("owner/name", revision="v1")),
        ("hf://spaces/owner/name/model.pth", HubName("owner/name", "space", file="model.pth")),
        ("https://huggingface.co/owner/name", HubName("owner/name")),
        (
            "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_base.pth",
            HubName("hamacojr/CAT-Seg-weights", "space", "main", "model_base.pth"),
        ),
        (
            "https://hf.co/owner/name/blob/refs%2Fpr%2F4/pytorch_model.bin?download=true",
            HubName("owner/name", revision="refs/pr/4", file="pytorch_model.bin"),
        ),
        ("https://huggingface.co/datasets/owner/name/tree/v2", HubName("owner/name", "dataset", "v2")),
        ("http://mirror:8080/hub/owner/name/resolve/main/a.bin", HubName("owner/name", revision="main", file="a.bin")),
        ("absent", None),
        ("./owner/name", None),
        ("/owner/name", None),
        ("owner/name/../other", None),
        ("owner/name//file", None),
        ("C:\\weights\\model.pth", None),
        ("owner/my model", None),
    ],
)
def test_what_a_name_means(text, expected, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror:8080/hub/")
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["hf://", "hf://owner", "hf://owner/name/../x", "https://huggingface.co/docs"])
def test_addresses_of_nothing_are_refused(text):
    with pytest.raises(CheckpointError, match=r"names no file or repository of the Hugging Face hub; the forms are"):
        parse(text)


def test_other_sites_are_refused():
    with pytest.raises(CheckpointError, match=r"https://example\.org/a\.pth is no address of .*give its path"):
        parse("https://example.org/a.pth")


def test_a_name_is_written_as_it_is_read(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for text in ("owner/name", "spaces/owner/name@v1/a/b.pth", "owner/name/model.pth"):
        assert str(parse(text)) == text
    assert parse("spaces/owner/name").page == "https://huggingface.co/spaces/owner/name"
