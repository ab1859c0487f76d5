"""Lines of the scaling page: figures by hand, and a refusal in a few words."""

from scripts import scaling_table

ENTRY = {
    "size": "vitb",
    "topology": "v5e:2x2",
    "program": "train",
    "batch": 8,
    "mesh": {"data": 4, "fsdp": 1, "classes": 1},
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


def test_refusal_is_short():
    row = scaling_table.row(ENTRY | {"mesh": {"data": -1, "fsdp": 1, "classes": 1}, "error": FULL})
    assert row == ("| v5e:2x2 | all x 1 x 1 | 8 | does not fit: temporaries alone need 20.48 of 15.75 GiB | | | | |")
    assert scaling_table.refused("Ran out of memory in memory space hbm. Used 20.1G of 15.7G.") == (
        "does not fit: needs 20.1 of 15.7 GiB"
    )
    assert scaling_table.refused("a|b" * 99) == ("a b" * 99)[:80]
