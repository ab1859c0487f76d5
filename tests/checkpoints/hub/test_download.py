"""Downloads: the hub's client against a hub on the loopback, and all that can go wrong on the way."""

import errno
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from ahs_seg_jax.checkpoints.hub import download
from ahs_seg_jax.checkpoints.hub.names import parse
from ahs_seg_jax.errors import CheckpointError
from tests.support import ROOT
from tests.support.fake_hub import TOKEN

WEIGHTS = bytes(range(256)) * 4001
CLIP = b'{"model_type": "clip"}'


def fetch(text, **options):
    return download.fetch(parse(text), **options)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def whole_files(folder):
    """What counts as present in a cache: what the snapshots hold."""
    return sorted(p.name for p in pathlib.Path(folder).glob("*/snapshots/*/**/*") if p.is_file())


@pytest.fixture
def cache(hub, tmp_path):
    return tmp_path / "hub_cache"


def test_a_file_of_a_space_by_every_name(hub, capsys):
    commit = hub.add("spaces/owner/weights", {"README.md": b"x", "base.pth": WEIGHTS, "large.pth": b"1"}).tags["main"]
    names = ["spaces/owner/weights/base.pth", "hf://spaces/owner/weights/base.pth"]
    names += [f"https://huggingface.co/spaces/owner/weights/resolve/{commit}/base.pth?download=true"]
    for name in names:
        found = fetch(name)
        assert found.path.read_bytes() == WEIGHTS
        assert (found.name.revision, found.name.file, found.bytes) == (commit, "base.pth", len(WEIGHTS))
        assert found.sha256 == sha256(WEIGHTS)
    assert len(hub.downloads()) == 1  # the cache serves the others
    told = capsys.readouterr().err
    assert told.count("downloading spaces/owner/weights, base.pth: 1 MB into ") == 1


def test_a_repository_says_which_of_its_files_are_the_weights(hub):
    hub.add("o/hf", {"config.json": CLIP, "model.safetensors": b"s", "pytorch_model.bin": b"p"})
    hub.add("o/pickle", {"config.json": CLIP, "pytorch_model.bin": b"p", "flax_model.msgpack": b"f"})
    hub.add("o/open", {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": b"o", "tokenizer.json": b"{}"})
    timm = {"config.json": b'{"architecture": "vit"}', "open_clip_config.json": b"{}", "model.safetensors": b"tower"}
    hub.add("o/timm", timm | {"open_clip_model.safetensors": b"both"})
    hub.add("o/single", {"weights.pth": b"w", "samples/a.bin": b"x"})
    for name, content in (("hf", b"s"), ("pickle", b"p"), ("open", b"o"), ("timm", b"both"), ("single", b"w")):
        assert fetch(f"o/{name}").path.read_bytes() == content
    assert len(hub.downloads()) == 5


def test_shards_lie_together(hub):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    files = {"config.json": CLIP, "model.safetensors.index.json": index, "model-1.safetensors": b"1"}
    hub.add("o/shards", files | {"model-2.safetensors": b"22", "other.bin": b"x"})
    found = fetch("o/shards")
    assert sorted(path.name for path in found.path.iterdir()) == [
        "config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    assert (found.bytes, found.sha256, found.name.file) == (3, "", "")
    hub.add("o/lost", files)
    with pytest.raises(CheckpointError, match=r"^o/lost is incomplete: .* names model-2\.safetensors, which is not"):
        fetch("o/lost")


def test_what_cannot_be_chosen_is_said_before_anything_large_is_downloaded(hub):
    hub.add("o/several", {"a.pth": b"1", "b.pth": b"2"})
    hub.add("o/nothing", {"README.md": b"x", "flax_model.msgpack": b"2"})
    with pytest.raises(
        CheckpointError, match=r"^o/several holds several files of weights \(a\.pth, b\.pth\): name one"
    ):
        fetch("o/several")
    with pytest.raises(CheckpointError, match=r"^o/nothing holds no weights that this program reads \(\.safetensors,"):
        fetch("o/nothing")
    with pytest.raises(CheckpointError, match=r"^o/several has no file c\.pth; .* are: a\.pth, b\.pth$"):
        fetch("o/several/c.pth")
    assert hub.downloads() == []


def test_small_files_are_examined_first(hub):
    hub.add("o/siglip", {"config.json": b'{"model_type": "siglip"}', "model.safetensors": WEIGHTS})

    def examine(small, files):
        assert files == ("model.safetensors",)
        kind = json.loads(small["config.json"].read_bytes())["model_type"]
        raise CheckpointError(f"this is a {kind}")

    with pytest.raises(CheckpointError, match="this is a siglip"):
        fetch("o/siglip", examine=examine)
    assert hub.downloads() == []


def test_a_branch_follows_the_hub_and_a_commit_does_not(hub):
    repository = hub.add("o/name", {"a.pth": b"one"})
    first = repository.tags["main"]
    assert fetch("o/name").path.read_bytes() == b"one"
    hub.add("o/name", {"a.pth": b"two"})
    assert fetch("o/name").path.read_bytes() == b"two"
    asked = len(hub.asked)
    assert fetch(f"o/name@{first}/a.pth").path.read_bytes() == b"one"
    assert len(hub.asked) == asked  # what a commit holds never changes


def test_a_broken_download_goes_on_where_it_broke(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what is written at once; 10 MB by default
    hub.add("o/name", {"a.pth": WEIGHTS})
    hub.break_after = [300_000]
    assert fetch("o/name").path.read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in hub.asked if path.startswith("/lfs/")]
    assert ranges == [None, "bytes=300000-"]


def test_offline_the_cache_is_enough_and_what_it_lacks_is_named(hub, cache, monkeypatch):
    hub.add("o/name", {"config.json": CLIP, "pytorch_model.bin": WEIGHTS, "b.pth": b"b"})
    fetch("o/name")
    for break_the_line in (lambda: setattr(hub, "down", True), lambda: monkeypatch.setenv("HF_HUB_OFFLINE", "1")):
        break_the_line()
        assert fetch("o/name").path.read_bytes() == WEIGHTS
        with pytest.raises(CheckpointError, match=r"^(o/name has no file b\.pth; its files|o/name.* not in the cache)"):
            fetch("o/name/b.pth")
    with pytest.raises(CheckpointError) as caught:
        fetch("o/other")
    assert str(caught.value).startswith(
        f"o/other is not in the cache ({cache}), and the hub at {hub.endpoint} cannot be"
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(CheckpointError, match=r"cannot serve o/other now \(status 503\): try again later"):
        fetch("o/other")


def test_no_network_at_all(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError, match=r"o/name is not in the cache .* cannot be reached \(.*connect once"):
        fetch("o/name")


def test_gated_private_and_absent_repositories(hub, monkeypatch):
    hub.add("o/gated", {"config.json": CLIP, "model.safetensors": b"s"}, gated=True)
    hub.add("o/private", {"a.pth": b"s"}, private=True)
    with pytest.raises(CheckpointError) as caught:
        fetch("o/gated")
    assert str(caught.value) == (
        f"o/gated is gated: visit {hub.endpoint}/o/gated, accept its terms there, log in (`hf auth login`, or the "
        "environment variable HF_TOKEN), and start again"
    )
    for name in ("o/private", "o/absent"):
        with pytest.raises(CheckpointError, match=rf"the hub has no model {name} that you may see: compare the name"):
            fetch(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("o/gated").path.read_bytes() == b"s"
    assert fetch("o/private").path.read_bytes() == b"s"
    with pytest.raises(CheckpointError, match="no model o/absent"):
        fetch("o/absent")
    with pytest.raises(CheckpointError, match="o/private has no revision v9: see"):
        fetch("o/private@v9")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(
        CheckpointError, match=r"refuses o/gated.* \(status 401\): the token is not valid for it; log in"
    ):
        fetch("o/gated@main/model.safetensors")


@pytest.mark.parametrize("path", ["/api/models/o/name", "/o/name/resolve/", "/lfs/"])
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"the hub refuses o/name \(status 401\): the token is not valid for it; log in"),
        (403, r"the hub refuses o/name \(status 403\): .* unless its owners have closed it: see http"),
        (404, r"o/name has no such file in revision main \(status 404\): see http"),
    ],
)
def test_whatever_answer_the_hub_refuses_with_is_told(hub, path, status, message):
    hub.add("o/name", {"model.safetensors": b"s"})
    hub.statuses[path] = status
    with pytest.raises(CheckpointError, match=message):
        fetch("o/name")
    hub.statuses.clear()
    assert fetch("o/name").path.read_bytes() == b"s"


def test_a_full_disk_is_known_before_the_download(hub, cache, monkeypatch):
    hub.add("o/name", {"a.pth": WEIGHTS})
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(
        CheckpointError, match=r"^o/name takes 1 MB, and the disk of .* has 1 MB left: make room there, or"
    ):
        fetch("o/name")
    assert hub.downloads() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    assert fetch("o/name").path.read_bytes() == WEIGHTS


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(hub, cache, monkeypatch):
    from huggingface_hub import file_download

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add("o/name", {"a.pth": WEIGHTS})
    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", full)
        with pytest.raises(
            CheckpointError, match=r"^o/name cannot be kept: the disk of .*hub_cache is full; make room"
        ):
            fetch("o/name")
    assert whole_files(cache) == []
    assert fetch("o/name").path.read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_written(hub, cache, monkeypatch):
    hub.add("o/name", {"a.pth": WEIGHTS})
    cache.write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"^o/name cannot be kept: the cache .* cannot be written .*HF_HUB_CACHE"):
        fetch("o/name")
    cache.unlink()
    found = fetch("o/name")  # what lies in a cache is read, also where nothing can be written

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", read_only)
    monkeypatch.setattr(os, "replace", read_only)
    assert fetch("o/name") == found
    hub.add("o/other", {"a.pth": b"1"})
    with pytest.raises(CheckpointError, match=r"^o/other cannot be kept: .* \(Read-only file system\)"):
        fetch("o/other")


def test_changed_bytes_in_the_cache_are_noticed(hub):
    hub.add("o/name", {"a.pth": WEIGHTS})
    path = fetch("o/name").path
    path.resolve().write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(CheckpointError) as caught:
        fetch("o/name")
    assert f"{path} is not what the hub has as o/name (sha256 " in str(caught.value)
    assert str(caught.value).endswith(f"remove {path.resolve()} and start again")
    path.resolve().unlink()
    assert fetch("o/name").path.read_bytes() == WEIGHTS


def test_other_bytes_from_the_hub_are_noticed(hub):
    hub.add("o/name", {"a.pth": WEIGHTS})
    hub.wrong_bytes = True
    with pytest.raises(CheckpointError, match="is not what the hub has as o/name"):
        fetch("o/name")


def test_a_file_that_its_owners_changed_is_refused_before_the_download(hub):
    hub.add("o/name", {"a.pth": WEIGHTS})
    with pytest.raises(CheckpointError, match=r"o/name holds another a\.pth than the one that is known \(sha256 "):
        fetch("o/name", sha256=sha256(b"another"))
    assert hub.downloads() == []
    assert fetch("o/name", sha256=sha256(WEIGHTS)).sha256 == sha256(WEIGHTS)


PROGRAM = """
import sys
from ahs_seg_jax.checkpoints.hub import download
from ahs_seg_jax.checkpoints.hub.names import parse
print(download.fetch(parse(sys.argv[1])).sha256)
assert not {"torch", "jax"} & set(sys.modules)
"""


def start(name):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", PROGRAM, name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_download_once(hub):
    hub.add("o/name", {"a.pth": WEIGHTS})
    both = [start("o/name") for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [out.strip() for out, _ in answers] == [sha256(WEIGHTS)] * 2, answers
    assert len(hub.downloads()) == 1


def test_a_killed_download_leaves_nothing_that_counts(hub, cache):
    hub.add("o/name", {"a.pth": WEIGHTS})
    hub.stall_after = 300_000
    process = start("o/name")
    deadline = time.monotonic() + 60
    while not hub.stalled.wait(0.05):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    hub.go_on.set()
    assert whole_files(cache) == []
    assert fetch("o/name").path.read_bytes() == WEIGHTS
