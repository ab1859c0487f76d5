"""Lines of the scaling page: figures by hand, and a refusal in a few words."""

from scripts import scaling_table

ENTRY = {
    "size": "vitb",
    "topology": "v5e:2x2",
    "program": "train",
    "batch": 8,
    "mesh": {"data": 4, "fsdp": 1, "classes": 1},
    "commit": "abc1234",
}
FULL = (
    "v5e:1x1: jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (20.48G) exceeds available HBM (15.75G)."
)


def test_row_by_hand():
    found = {"peak": 2**31, "operations": 1.97e13, "moved": 8.19e11, "collectives": {"all-reduce": 3}}
    assert scaling_table.row(ENTRY | found) == (
        "| v5e:2x2 | 4 x 1 x 1 | 8 | 2.00 of 16 | 19.70 | 819 GB | 100 to 1000 ms | 3 all-reduce |"
    )
    parts = ENTRY | found | {"accumulation": 2, "peak": 17 * 2**30}
    assert scaling_table.row(parts).startswith(
        "| v5e:2x2 | 4 x 1 x 1 | 8 in 2 micro-batches | 17.00 of 16 **too much** |"
    )


def test_entries_of_an_earlier_commit_are_named():
    old = {name: value for name, value in DONE.items() if name != "commit"}
    assert scaling_table.row(old).endswith(" ms | an earlier commit |")
    assert scaling_table.commits_of([DONE]) == "abc1234"
    assert scaling_table.commits_of([old, DONE, DONE]) == "abc1234 (2 of 3), an earlier commit (1 of 3)"


def test_refusal_is_short():
    row = scaling_table.row(ENTRY | {"mesh": {"data": -1, "fsdp": 1, "classes": 1}, "error": FULL})
    assert row == ("| v5e:2x2 | all x 1 x 1 | 8 | does not fit: temporaries alone need 20.48 of 15.75 GiB | | | | |")
    assert scaling_table.refused("Ran out of memory in memory space hbm. Used 20.1G of 15.7G.") == (
        "does not fit: needs 20.1 of 15.7 GiB"
    )
    assert scaling_table.refused("a|b" * 99) == ("a b" * 99)[:80]


DONE = ENTRY | {"chips": 4, "peak": 2**31, "arguments": 2**30, "operations": 1e12, "moved": 1e9, "collectives": {}}
ALL = {"data": -1, "fsdp": 1, "classes": 1}


def wanted(topology, batch, **changes):
    return ENTRY | {"topology": topology, "batch": batch, "mesh": ALL} | changes


def test_same_program_on_another_slice_is_not_compiled_again():
    other = DONE | {"topology": "v5e:4x4", "chips": 16, "batch": 64}
    found = scaling_table.twin(wanted("v5e:4x4", 32), [other, DONE])  # two images a chip, as 8 on 4 chips
    assert found == DONE | {
        "topology": "v5e:4x4",
        "batch": 32,
        "mesh": {"data": 16, "fsdp": 1, "classes": 1},
        "as": "v5e:2x2 with 8",
    }
    assert scaling_table.row(found).endswith(" | as v5e:2x2 with 8 |")
    one = DONE | {"topology": "v5e:1x1", "chips": 1, "batch": 99}
    assert scaling_table.twin(wanted("v5e:1x1", 2), [one, DONE]) is None  # nothing to add up across chips
    assert scaling_table.twin(wanted("v5e:4x4", 16), [other, DONE]) is None  # one image a chip
    assert scaling_table.twin(wanted("v5e:8x8", 32), [other, DONE]) is None  # nobody knows how many chips
    split = DONE | {"mesh": {"data": 2, "fsdp": 2, "classes": 1}}
    assert scaling_table.twin(wanted("v5e:4x4", 32), [other, split]) is None


def test_evaluation_on_one_chip_is_that_of_each_of_many_also_where_it_does_not_fit():
    known = [
        DONE | {"program": "eval", "topology": "v5e:1x1", "chips": 1, "batch": 99},
        DONE | {"program": "eval"},
        wanted("v5e:2x2", 400, program="eval", error=FULL),
    ]
    assert scaling_table.twin(wanted("v5e:1x1", 2, program="eval"), known)["as"] == "v5e:2x2 with 8"
    too_much = scaling_table.twin(wanted("v5e:1x1", 100, program="eval"), known)
    assert scaling_table.row(too_much) == (
        "| v5e:1x1 | 1 x 1 x 1 | 100 | does not fit: temporaries alone need 20.48 of 15.75 GiB | | | | as v5e:2x2 with 400 |"
    )


def test_table_of_fsdp_sets_meshes_of_one_step_side_by_side():
    split = DONE | {"mesh": {"data": 1, "fsdp": 4, "classes": 1}, "arguments": 2**28, "collectives": {"all-gather": 5}}
    assert scaling_table.fsdp_table([DONE]) == []
    lines = scaling_table.fsdp_table([split, DONE, DONE | {"batch": 16}])[2].splitlines()
    assert lines[2:] == [
        "| vitb | v5e:2x2 | 4 x 1 | 8 | 1.00 GiB | 2.00 GiB | 1 GB |  |",
        "| vitb | v5e:2x2 | 1 x 4 | 8 | 0.25 GiB | 2.00 GiB | 1 GB | 5 all-gather |",
    ]


def test_own_estimates_beside_the_roofline():
    def record(work, estimated):
        return {"work": work, "estimated_seconds": estimated, "roofline": {"seconds": 0.5}}

    records = [record("training step", 2.0), record("inference, whole image", 1.0), record("inference, windows", 1.5)]
    said = scaling_table.own_estimate([*records, record("training step", 3.5), record("training step", None)])
    assert said.startswith(
        "XLA's own estimate for one chip is 4.0 to 7.0 times (a training step) and 2.0 to 3.0 times (inference)"
    )
    assert scaling_table.own_estimate([]) == ""
