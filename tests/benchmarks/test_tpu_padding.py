"""Padding of matrix work by hand: products, batches of them, convolutions, kernel gradients; and the tables of it."""

import pytest

from benchmarks import tpu, tpu_chips, tpu_padding, tpu_report
from benchmarks.program_text import parse

PRODUCT = "%c = bf16[5,3]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf"
PROGRAM = """HloModule m

ENTRY %main (a: bf16[5,7], b: bf16[7,3]) -> bf16[5,3] {
  %a = bf16[IMAGE parameter(0)
  %b = bf16[KERNEL parameter(1)
  ROOT PRODUCT, metadata={op_name="jit(f)/aggregator.decode/dot_general"}, backend_config={"estimated_cycles":"7"}
}
"""


def program(image, kernel, product):
    return PROGRAM.replace("IMAGE", image).replace("KERNEL", kernel).replace("PRODUCT", product)


def work(image, kernel, product, unit=128):
    (found,) = tpu_padding.by_part(program(image, kernel, product), unit).values()
    return found


def test_tiles_are_of_the_last_axes_in_the_layouts_order():
    assert tpu_padding.array("bf16[5,3]{1,0:T(8,128)(2,1)S(1)}").padded == (8, 128)
    assert tpu_padding.array("bf16[5,3]{0,1:T(4,128)}").padded == (128, 4)
    assert tpu_padding.array("f32[2,3,130]{2,0,1:T(8,128)}").padded == (8, 3, 256)
    assert tpu_padding.array("bf16[300]{0:T(1024)(128)(2,1)}").padded == (1024,)
    assert tpu_padding.array("f32[5,3]").padded == (5, 3)


def test_product():
    found = work("5,7]{1,0:T(8,128)(2,1)}", "7,3]{1,0:T(8,128)(2,1)}", PRODUCT)
    assert found.useful == 2 * 5 * 7 * 3
    assert found.padded == pytest.approx(2 * 8 * 128 * 128)  # 7 lies along the image's lanes, 3 along the kernel's
    assert found.unit == pytest.approx(2 * 128 * 3 * 128)  # 7, and the larger of 5 and 3, fill the unit's sides
    found = work("5,7]{0,1:T(8,128)(2,1)}", "7,3]{1,0:T(8,128)(2,1)}", PRODUCT)
    assert found.padded == pytest.approx(2 * 128 * 8 * 128)  # images along the lanes: 7 needs a multiple of 8


def test_zeros_of_the_decoders_blocks_are_padding():
    image, kernel = "5,7]{1,0:T(8,128)(2,1)}", "7,3]{1,0:T(8,128)(2,1)}"
    plain = program(image, kernel, PRODUCT)
    (dense,), (sparse,) = (
        tpu_padding.by_part(text, 128).values() for text in (plain, plain.replace("decode/", "decode/sparse_blocks/"))
    )
    assert sparse.useful == dense.useful * 9 / 16
    assert (sparse.padded, sparse.unit) == (dense.padded, dense.unit)


def test_batch_of_products_is_padded_in_its_tiles_alone():
    product = (
        "%c = bf16[11,5,3]{2,1,0:T(8,128)(2,1)} convolution(%a, %b), window={size=11 stride=10 lhs_dilate=11}, "
        "dim_labels=0bf_0io->0bf"
    )
    found = work("11,5,7]{2,1,0:T(8,128)(2,1)}", "11,7,3]{2,1,0:T(8,128)(2,1)}", product)
    assert found.useful == 2 * 11 * 5 * 7 * 3
    assert found.padded == pytest.approx(2 * 11 * 8 * 128 * 128)
    assert found.unit == pytest.approx(2 * 11 * 128 * 3 * 128)  # the 11 products do not share one filling of the unit


def test_convolution_and_its_kernels_gradient():
    product = (
        "%c = f32[2,13,13,32]{0,3,2,1:T(8,128)} convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, "
        "dim_labels=b01f_01io->b01f"
    )
    found = work("2,13,13,17]{0,3,2,1:T(8,128)}", "3,3,17,32]{3,2,1,0:T(8,128)}", product)
    assert found.useful == 2 * 2 * 17 * 32 * (13 * 3 - 2) ** 2  # at each of two borders one tap falls outside
    assert found.padded / found.useful == pytest.approx(128 / 2 * 24 / 17 * 128 / 32)
    gradient = (
        "%c = f32[3,3,17,32]{3,2,1,0:T(8,128)} convolution(%a, %b), window={size=13x13 pad=1_1x1_1}, "
        "dim_labels=f01b_i01o->01bf"
    )
    found = work("2,13,13,17]{0,3,2,1:T(8,128)}", "2,13,13,32]{0,3,2,1:T(8,128)}", gradient)
    assert found.useful == 2 * 2 * 17 * 32 * (13 * 3 - 2) ** 2
    assert found.padded / found.useful == pytest.approx(128 / 2 * 24 / 17 * 128 / 32)


def test_summed_axis_counts_once():
    product = "%c = f32[3,4,1]{1,0,2:T(4,128)} convolution(%a, %b), window={size=19}, dim_labels=0fb_0io->bf0"
    found = work("19,5,3]{1,2,0:T(8,128)}", "19,5,4]{2,1,0:T(8,128)}", product)
    assert found.useful == 2 * 3 * 4 * 5 * 19
    assert found.padded / found.useful == pytest.approx(8 / 3 * 128 / 5 * 128 / 4)
    assert found.unit / found.useful == pytest.approx(128 / (5 * 19) * 128 / 4)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(f)/jvp(AHSSeg)/clip.encode_text/text/while/body/dot_general", "text tower"),
        ("jit(f)/transpose(jvp(AHSSeg))/AHSSeg._image/clip.encode_image/ljki,ljko->ljio/dot_general", "rotations"),
        ("jit(f)/jvp(AHSSeg)/AHSSeg._image/clip.encode_image/image/dot_general", "image tower"),
        ("jit(f)/jvp(AHSSeg)/AHSSeg._segment/aggregator.aggregate/layers_1/class/class.sums/x", "class layers"),
        ("jit(f)/jvp(AHSSeg)/AHSSeg._segment/aggregator.aggregate/layers_0/spatial/while", "spatial layers"),
        ("jit(f)/transpose(jvp())/while/body/closed_call/checkpoint/dot_general", "losses"),
        ("", "other"),
    ],
)
def test_parts(name, part):
    assert tpu_padding.part_of(name) == part


def test_record_and_tables():
    text = program("5,7]{1,0:T(8,128)(2,1)}", "7,3]{1,0:T(8,128)(2,1)}", PRODUCT)
    chip = tpu_chips.Chip(teraflops=1e-6, gigabytes=1e-6, unit=128, gigahertz=1e-6)
    found = tpu.figures(text, chip)
    assert found["flops"] == 210
    assert found["padding_waste"] == pytest.approx(1 - 210 / (2 * 8 * 128 * 128))
    assert found["compute_seconds"] == pytest.approx(210e-6)
    assert found["memory_seconds"] == pytest.approx((2 * (5 * 7 + 7 * 3 + 5 * 3)) * 1e-3)
    assert found["roofline"] == {"seconds": found["memory_seconds"], "bound_by": "memory"}
    assert found["estimated_seconds"] == pytest.approx(7e-3)
    assert tpu.figures(text.replace("estimated_cycles", "x"), chip)["estimated_seconds"] is None
    record = {"size": "vitb", "chip": "v5e", "work": "training step", "batch": 16, "dtype": "bfloat16"}
    page = tpu_report.block([{**record, **found}])
    assert "| training step, batch 16 | v5e | 0.0 TFLOP | 0 ms | 262 ms | 142 ms |" in page
    assert "| 142 ms (memory) | 7 ms (matrix work 100%) |" in page
    assert "| decoder | 100%, 100% of all |" in page
    unfinished = {**record, **found, "estimated_seconds": None, "estimated_by_kind": {}}
    assert "| 142 ms (memory) | not made |" in tpu_report.block([unfinished])
    assert tpu_report.block([]) == ""


def test_estimate_counts_loops_as_often_as_they_run():
    text = (
        PROGRAM.replace("ENTRY %main", "%body")
        .replace("PRODUCT", PRODUCT)
        .replace("IMAGE", "5,7]")
        .replace("KERNEL", "7,3]")
    )
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
    assert tpu.cycles(text) == {"matrix work": 42, "rearranging": 30}


@pytest.mark.parametrize(("name", "units"), [("v4", 4), ("v5e", 4), ("v5p", 8), ("v6e", 4)])
def test_clock_fits_the_rate_of_the_matrix_units(name, units):
    chip = tpu_chips.chip_of(f"{name}:2x2")
    assert 2 * units * chip.unit**2 * chip.gigahertz == pytest.approx(1e3 * chip.teraflops, rel=0.01)
