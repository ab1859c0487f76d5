"""`ahs-seg models`: what is listed, and what lies here."""

import json

import pytest

from ahs_seg_jax.checkpoints import sources
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.cli import models as command


def test_every_model_is_listed_with_size_and_licence(hub, tmp_path, capsys):
    command.run("", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: 2 + len(zoo.table())]] == ["name", "tiny", *zoo.table()]
    assert lines[2].split()[:5] == ["catseg-vitb16", "819", "MB", "no", "MIT"]
    assert f"into {tmp_path / 'hub_cache'}." in lines[-1]
    assert hub.asked == []


def test_what_was_downloaded_is_shown(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AHS_SEG_ZOO", str(tmp_path / "zoo.toml"))
    (tmp_path / "zoo.toml").write_text('[ours]\ntitle = "Ours"\nrepo = "o/ours"\ncitation = "Us, 2026"\n')
    hub.add("o/ours", {"model.safetensors": b"12345"})
    command.run("ours", as_json=True)
    assert json.loads(capsys.readouterr().out)["path"] == ""
    path = sources.locate("ours").path
    command.run("ours", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["path"] == str(path)
    assert (shown["bytes"], shown["revision"]) == (5, hub.repositories["o/ours"].tags["main"])
    command.run("ours", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "citation    Us, 2026" in lines
    assert "licence     unknown" in lines


def test_an_unknown_name_is_answered_with_the_nearest(hub):
    with pytest.raises(ValueError, match=r"the model zoo has no clip-vitb17 \(clip-vitb16, .*; without a name, all"):
        command.run("clip-vitb17", as_json=False)
