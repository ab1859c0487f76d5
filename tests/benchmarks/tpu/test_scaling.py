"""The scaling page: cells by hand, which entries stand for which slices, and that the page is made from its file."""

import argparse
import json

import pytest

from benchmarks.tpu import scaling, scaling_page

ENTRY = {
    "size": "vitb",
    "topology": "v5e:2x2",
    "program": "train",
    "batch": 8,
    "mesh": {"data": 4, "fsdp": 1, "classes": 1},
    "commit": "abc1234",
}
FULL = (
    "v5e:1x1: jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
    "HLO temporaries (20.48G) exceeds available HBM (15.75G)."
)
DONE = ENTRY | {"chips": 4, "peak": 2**31, "arguments": 2**30, "operations": 1e12, "moved": 1e9, "collectives": {}}
ALL = {"data": -1, "fsdp": 1, "classes": 1}


def wanted(topology, batch, **changes):
    return ENTRY | {"topology": topology, "batch": batch, "mesh": ALL} | changes


def test_cell_by_hand():
    found = DONE | {"operations": 1.97e13, "moved": 8.19e11}  # 100 ms of products, 1000 ms of the memory
    assert scaling_page.cell(found) == "2.0 GiB, 1,000 ms"
    assert scaling_page.cell(found | {"moved": 0.0}) == "2.0 GiB, 100 ms"
    assert scaling_page.cell(found | {"accumulation": 2}) == "2.0 GiB, 1,000 ms, 2 micro-batches"
    split = found | {"mesh": {"data": 1, "fsdp": 2, "classes": 2}}
    assert scaling_page.cell(split) == "2.0 GiB, 1,000 ms, mesh.fsdp=2, mesh.classes=2"
    assert scaling_page.cell(found | {"peak": 17 * 2**30}) == "does not fit: needs 17.0 GiB"
    assert scaling_page.cell(None) == "not compiled"


def test_refusal_is_short():
    assert scaling_page.cell(ENTRY | {"error": FULL}) == "does not fit: temporaries alone need 20.48 of 15.75 GiB"
    assert scaling_page.refused("Ran out of memory in memory space hbm. Used 20.1G of 15.7G.") == (
        "does not fit: needs 20.1 of 15.7 GiB"
    )
    assert scaling_page.refused("a|b" * 99) == ("a b" * 99)[:80]


def test_commits_of_the_entries_are_named():
    old = {name: value for name, value in DONE.items() if name != "commit"}
    assert scaling_page.commits_of([DONE]) == "abc1234"
    assert scaling_page.commits_of([old, DONE, DONE]) == "abc1234 (2 of 3), an earlier commit (1 of 3)"
    assert scaling_page.commits_of([]) == "no commit"


def test_same_program_on_another_slice_is_not_compiled_again():
    other = DONE | {"topology": "v5e:4x4", "chips": 16, "batch": 64}
    found = scaling_page.twin(wanted("v5e:4x4", 32), [other, DONE])  # two images a chip, as 8 on 4 chips
    assert found == DONE | {"topology": "v5e:4x4", "batch": 32, "mesh": {"data": 16, "fsdp": 1, "classes": 1}}
    one = DONE | {"topology": "v5e:1x1", "chips": 1, "batch": 99}
    assert scaling_page.twin(wanted("v5e:1x1", 2), [one, DONE]) is None  # nothing to add up across chips
    assert scaling_page.twin(wanted("v5e:4x4", 16), [other, DONE]) is None  # one image a chip
    assert scaling_page.twin(wanted("v5e:8x8", 32), [other, DONE]) is None  # nobody knows how many chips
    split = DONE | {"mesh": {"data": 2, "fsdp": 2, "classes": 1}}
    assert scaling_page.twin(wanted("v5e:4x4", 32), [other, split]) is None


def test_evaluation_on_one_chip_is_that_of_each_of_many_also_where_it_does_not_fit():
    known = [
        DONE | {"program": "eval", "topology": "v5e:1x1", "chips": 1, "batch": 99},
        DONE | {"program": "eval"},
        wanted("v5e:2x2", 400, program="eval", error=FULL),
    ]
    assert scaling_page.twin(wanted("v5e:1x1", 2, program="eval"), known)["peak"] == 2**31
    too_much = scaling_page.twin(wanted("v5e:1x1", 100, program="eval"), known)
    assert scaling_page.cell(too_much) == "does not fit: temporaries alone need 20.48 of 15.75 GiB"


def test_shown_is_what_fits_with_the_simplest_mesh_and_the_fewest_micro_batches():
    too_much = DONE | {"peak": 17 * 2**30}
    split = DONE | {"mesh": {"data": 1, "fsdp": 4, "classes": 1}}
    parts = [DONE | {"accumulation": n} for n in (4, 2)]
    ask = ("vitb", "v5e:2x2", "train", 8)
    assert scaling_page.known(*ask, [too_much, split, *parts]) == parts[1]
    assert scaling_page.known(*ask, [too_much, split]) == split
    assert scaling_page.known(*ask, [too_much]) == too_much
    assert scaling_page.known("vitl", *ask[1:], [DONE]) is None


def test_table_of_slices():
    entries = [
        DONE | {"batch": 16},
        DONE | {"batch": 16, "program": "eval"},
        DONE | {"batch": 64, "program": "eval", "peak": 3 * 2**30},
        DONE | {"batch": 256, "program": "eval", "peak": 17 * 2**30},
    ]
    header, _, *rows = scaling_page.slices_table("vitb", entries).splitlines()
    assert header.startswith("| slice | devices | memory of each | training, batch 16 | training, batch 64 |")
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in scaling_page.TOPOLOGIES]
    none = "not compiled"
    assert rows[2] == (f"| v5e:2x2 | 4 | 16 GiB | 2.0 GiB, 5 ms | {none} | {none} | {none} | batch 64: 3.0 GiB, 5 ms |")
    assert rows[0] == f"| v5e:1x1 |  | 16 GiB | {none} | {none} | {none} | {none} | {none} |"


def test_table_of_fsdp_sets_meshes_of_one_step_side_by_side():
    here = DONE | {"topology": "v5e:4x4", "batch": 64}
    split = here | {"mesh": {"data": 1, "fsdp": 4, "classes": 1}, "arguments": 2**28, "collectives": {"all-gather": 5}}
    assert scaling_page.fsdp_table([DONE]) == "Not compiled."
    lines = scaling_page.fsdp_table([split, here, DONE | {"batch": 16}]).splitlines()
    assert lines[2:] == [
        "| vitb | 4 x 1 | 1.00 GiB | 2.00 GiB | 1 GB |  |",
        "| vitb | 1 x 4 | 0.25 GiB | 2.00 GiB | 1 GB | 5 all-gather |",
    ]


def test_own_estimates_beside_the_roofline():
    def record(work, estimated):
        return {"work": work, "estimated_seconds": estimated, "roofline": {"seconds": 0.5}}

    records = [record("training step", 2.0), record("inference, whole image", 1.0), record("inference, windows", 1.5)]
    said = scaling_page.own_estimate([*records, record("training step", 3.5), record("training step", None)])
    assert said.startswith(
        "XLA's own estimate for one chip is 4.0 to 7.0 times that for a training step and 2.0 to 3.0 times that for "
        "inference: see [One TPU chip]"
    )
    assert scaling_page.own_estimate([]) == "XLA's own estimate was not made."


def test_combinations_of_a_command_line():
    options = scaling.parse(["--sizes", "vitb", "--topologies", "v5e:2x2", "--batches", "8", "--programs", "train"])
    (entry,) = scaling.combinations(options)
    assert entry == {"size": "vitb", "topology": "v5e:2x2", "program": "train", "batch": 8, "mesh": ALL}
    assert scaling.key(entry) == "vitb v5e:2x2 train 8 1 1"
    options = argparse.Namespace(**{**vars(options), "fsdp": 2, "accumulation": 4, "batches": [8, 16]})
    split = scaling.combinations(options)
    assert [scaling.key(entry) for entry in split] == ["vitb v5e:2x2 train 8 2 1 4", "vitb v5e:2x2 train 16 2 1 4"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A page with its markers, a file with one entry, and a compiler that does nothing."""
    markers = scaling_page.blocks([], {}, [])
    page = "".join(f"<!-- {name} -->\n<!-- end {name} -->\n" for name in markers)
    (tmp_path / "scaling.md").write_text(page)
    (tmp_path / "scaling.json").write_text(json.dumps({"versions": {"jax": "1", "libtpu": "2"}, "entries": [DONE]}))
    monkeypatch.setattr(scaling, "PAGE", tmp_path / "scaling.md")
    monkeypatch.setattr(scaling, "JSON", tmp_path / "scaling.json")
    monkeypatch.setattr(scaling, "stay_on_cpu", lambda: None)
    monkeypatch.setattr(scaling.importlib.metadata, "version", lambda name: "3")
    return tmp_path


def test_check_of_the_page(files, capsys):
    assert scaling.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "scaling.md differs from the files it is made from" in said
    assert "+ Compiled with libtpu 2 and jax 1, from the code of abc1234." in said
    assert "run python -m benchmarks.tpu.scaling --write-only" in said
    assert scaling.main(["--write-only"]) == 0
    assert scaling.main(["--check"]) == 0


def test_a_stopped_run_goes_on(files, monkeypatch):
    measured = []
    monkeypatch.setattr(
        scaling, "measure", lambda entry: measured.append(scaling.key(entry)) or entry | {"error": FULL}
    )
    command = ["--sizes", "vitb", "--topologies", "v5e:2x2", "--programs", "train", "--batches", "8", "16"]
    assert scaling.main(command) == 0
    assert measured == ["vitb v5e:2x2 train 16 1 1"]  # the file holds that of 8
    assert scaling.main(command) == 0
    assert len(measured) == 1
    stored = json.loads((files / "scaling.json").read_text())
    assert [entry["batch"] for entry in stored["entries"]] == [16, 8]
    assert stored["versions"]["libtpu"] == "3"
    assert "does not fit: temporaries alone need 20.48 of 15.75 GiB" in (files / "scaling.md").read_text()


def test_page_of_the_repository_is_made_from_its_file():
    assert scaling.main(["--check"]) == 0
