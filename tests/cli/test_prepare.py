"""The command that prepares benchmarks."""

from concurrent.futures.process import BrokenProcessPool

import pytest

from ahs_seg_jax import progress
from ahs_seg_jax.data.prepared import layout, preparation
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from tests.support import trees
from tests.support.commands import data_command
from tests.support.trees import rows


@pytest.fixture
def root(tmp_path):
    trees.voc(tmp_path, {f"2007_{k:06d}": rows([0, k, 255]) for k in range(1, 4)})
    return tmp_path


def test_several_benchmarks_of_one_root(root, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    assert data_command(["prepare", "voc_20", "voc_20b", "--root", str(root), "--jobs", "1", "--partial"]) == 1
    printed = capsys.readouterr().out
    for part in (
        "voc_20: 3 of 3 images",
        "voc_20 val: 3 images, 1 shards",
        "voc_20: refused\n  problem: val: 3 images with labels were found, the published set has 1,449",
        "voc_20b val: 3 images",
    ):
        assert part in printed
    assert PreparedSource(root, "voc_20", "val")[0]["label"][0].tolist() == [-1, 0, -1]
    assert PreparedSource(root, "voc_20b", "val")[0]["label"][0].tolist() == [20, 0, -1]
    assert (layout.prepared_folder(root, "voc_20b") / "contact_sheet-val.png").is_file()


def test_another_target_and_a_limit(root, tmp_path_factory, monkeypatch, capsys):
    target = tmp_path_factory.mktemp("target")
    monkeypatch.setenv("AHS_SEG_DATA", str(root))
    data_command(["prepare", "voc_20", "--to", str(target), "--limit", "2", "--jobs", "1", "--partial"])
    assert len(PreparedSource(target, "voc_20", "val")) == 2
    assert f"evaluate them with --config.data.root={target}, or AHS_SEG_DATA={target}" in capsys.readouterr().out
    assert not (root / "prepared").exists()


def test_unreadable_files_are_named(root, capsys):
    (root / "VOCdevkit/VOC2012/SegmentationClassAug/2007_000002.png").write_text("no image")
    assert data_command(["prepare", "voc_20", "--root", str(root), "--jobs", "1", "--partial"]) == 1
    printed = capsys.readouterr().out
    assert "voc_20 val: 2 images" in printed
    assert "  left out: " in printed
    assert "2007_000002.png cannot be read" in printed


def test_errors_are_sentences(root, capsys, monkeypatch):
    monkeypatch.delenv("AHS_SEG_DATA", raising=False)
    assert data_command(["prepare", "voc_20"]) == 2
    assert "error: --root is empty, and so is the environment variable AHS_SEG_DATA" in capsys.readouterr().err
    assert data_command(["prepare", "voc_20", "--root", str(root)]) == 2
    assert "is not complete:\n  - val: 3 images with labels, the published set has 1,449" in capsys.readouterr().err
    for arguments, message in (
        (["voc"], "error: there is no benchmark 'voc'; choose one of coco_stuff, ade20k_150, ade20k_847, "),
        (["voc_20", "--limit", "-1"], "'--limit': Input should be greater than or equal to 0"),
    ):
        assert data_command(["prepare", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_all_that_is_missing_is_named_before_anything_is_prepared(root, capsys):
    assert data_command(["prepare", "ade20k_150", "voc_20", "pascal_context_59", "--root", str(root)]) == 2
    said = capsys.readouterr().err
    for part in (
        f"ade20k_150: {root} lacks ADEChallengeData2016/images/validation",
        f"voc_20 in {root} is not complete",
        f"pascal_context_59: {root} lacks VOCdevkit/VOC2010/JPEGImages",
        "https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
    ):
        assert part in said
    assert data_command(["prepare", "voc_20", "ade20k_150", "--root", str(root), "--partial"]) == 2
    assert not (root / "prepared").exists()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command continues"),
        (
            BrokenProcessPool(),
            2,
            "error: a process was killed, as a full memory does; the same command with fewer --jobs",
        ),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device"),
    ],
)
def test_whatever_stops_it_is_a_sentence(root, capsys, monkeypatch, error, code, message):
    def stop(*_):
        raise error

    monkeypatch.setattr(preparation, "prepare", stop)
    assert data_command(["prepare", "voc_20", "--root", str(root), "--partial"]) == code
    assert message in capsys.readouterr().err
