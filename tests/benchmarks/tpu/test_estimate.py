"""Estimates for one TPU chip: cycles and times by hand, the table of them, and what a program asks for."""

import pytest

from ahs_seg_jax.ahead_of_time import memory
from benchmarks import results_file
from benchmarks.counting.program_text import parse
from benchmarks.tpu import chips, estimate, report

PROGRAM = """HloModule m

ENTRY %main (a: bf16[5,7], b: bf16[7,3]) -> bf16[5,3] {
  %a = bf16[5,7]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[7,3]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[5,3]{1,0} convolution(%a, %b), dim_labels=bf_io->bf, backend_config={"estimated_cycles":"7"}
}
"""
CHIP = chips.Chip(teraflops=1e-6, gigabytes=1e-6, gigahertz=1e-6, memory_gib=1)


def test_record_and_table():
    found = estimate.figures(PROGRAM, CHIP, work=210)
    assert found["flops"] == 210
    assert found["moved"] == 2 * (5 * 7 + 7 * 3 + 5 * 3)
    assert found["compute_seconds"] == pytest.approx(210e-6)
    assert found["memory_seconds"] == pytest.approx(142e-3)
    assert found["roofline"] == {"seconds": found["memory_seconds"], "bound_by": "memory"}
    assert found["estimated_seconds"] == pytest.approx(7e-3)
    bound = estimate.figures(PROGRAM, CHIP, work=210_000)["roofline"]
    assert bound == {"seconds": pytest.approx(210e-3), "bound_by": "compute"}
    assert estimate.figures(PROGRAM.replace("estimated_cycles", "x"), CHIP, 210)["estimated_seconds"] is None
    record = {"size": "vitb", "chip": "v5e", "work": "training step", "batch": 16, "dtype": "bfloat16"}
    row = "| training step, batch 16 | v5e | 0.0 TFLOP | 0 ms | 142 ms | 142 ms (memory) |"
    assert f"{row} 7 ms (matrix work 100%) |" in report.block([{**record, **found}])
    unfinished = {**record, **found, "estimated_seconds": None, "estimated_by_kind": {}}
    assert f"{row} not made |" in report.block([unfinished])
    assert report.block([]) == ""


def test_estimate_counts_loops_as_often_as_they_run():
    text = PROGRAM.replace("ENTRY %main", "%body")
    text += """
%condition (s: s32[]) -> pred[] {
  %s = s32[] parameter(0)
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%s, %limit), direction=LT
}

ENTRY %main (s: s32[]) -> s32[] {
  ROOT %loop = s32[] while(%s), condition=%condition, body=%body
}
"""
    assert parse(text)[1] == "main"
    text = text.replace("%b = ", '%moved = f32[3] copy(%a), backend_config={"estimated_cycles":"5"}\n  %b = ')
    assert estimate.cycles(text) == {"matrix work": 42, "rearranging": 30}


# How many matrix units a device has, and how many numbers lie along the side of one, by the vendor's documents.
@pytest.mark.parametrize(("name", "units", "side"), [("v4", 4, 128), ("v5e", 4, 128), ("v5p", 8, 128), ("v6e", 4, 256)])
def test_clock_fits_the_rate_of_the_matrix_units(name, units, side):
    chip = chips.chip_of(f"{name}:2x2")
    assert 2 * units * side**2 * chip.gigahertz == pytest.approx(1e3 * chip.teraflops, rel=0.01)


def test_chips_have_the_memory_that_the_package_plans_with():
    assert {name: chip.memory_gib for name, chip in chips.CHIPS.items()} == memory.DEVICE_GIB


def test_recipe_with_another_batch_protocol_and_mesh():
    recipe = estimate.experiment_of("vitb", "eval", 64)
    assert (recipe.mode, recipe.eval.batch_size, recipe.train.batch_size) == ("eval", 64, 64)
    assert (recipe.eval.protocol, recipe.mesh.fsdp, recipe.train.accumulation) == ("cat_seg", 1, 1)
    mesh = type(recipe.mesh)(fsdp=4)
    changed = estimate.experiment_of("vitb", "train", 64, protocol="whole", mesh=mesh, accumulation=4)
    assert (changed.eval.protocol, changed.mesh, changed.train.accumulation) == ("whole", mesh, 4)
    assert recipe.problems() == changed.problems() == []


def test_kept_programs_are_not_compiled_again(tmp_path):
    assert estimate.kept(tmp_path, "vitb", lambda: "HloModule m") == "HloModule m"
    assert estimate.kept(tmp_path, "vitb", lambda: pytest.fail("compiled again")) == "HloModule m"
    assert [path.name for path in tmp_path.iterdir()] == ["vitb.hlo.gz"]
    assert estimate.kept(None, "vitb", lambda: "HloModule n") == "HloModule n"


def test_a_record_for_each_chip_and_work(monkeypatch, tmp_path):
    """With a compiler and a count in the place of the real ones, which take minutes."""
    asked = []
    monkeypatch.setattr(estimate, "stay_on_cpu", lambda: None)
    monkeypatch.setattr(estimate.importlib.metadata, "version", lambda name: f"{name} 1")
    monkeypatch.setattr(estimate, "work_of_images", lambda *work: (1e12, 1e12) if asked.append(work) is None else None)
    monkeypatch.setattr(estimate, "compiled", lambda experiment, topology, finish: PROGRAM)
    output = tmp_path / "tpu.json"
    estimate.main(["--chips", "v5e", "--works", "training step", "inference, whole image", "--output", str(output)])
    training, inference = results_file.read(output)
    assert asked == [("vitb", "train", "cat_seg"), ("vitb", "eval", "whole")]
    assert training["flops"] == 17e12  # what does not depend on the images, and sixteen images
    assert (training["work"], inference["work"]) == ("training step", "inference, whole image")
    assert training["versions"] == {"jax": "jax 1", "libtpu": "libtpu 1"}
