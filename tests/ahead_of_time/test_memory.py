"""Predicted memory: the figures of a compiled program, and of the real training step on a TPU if there is libtpu."""

import dataclasses
import importlib.util
import pathlib
import textwrap

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from ahs_seg_jax.ahead_of_time import memory, programs, tpu_compiler
from ahs_seg_jax.cli import app
from ahs_seg_jax.config import MeshConfig
from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import along_batch, make_mesh, replicated
from ahs_seg_jax.errors import InputError
from ahs_seg_jax.training import step
from configs import vitb
from tests.support.training import experiment


def test_figures_of_a_program_on_two_devices():
    mesh = make_mesh(jax.devices()[:2])
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=along_batch(mesh))
    w = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=replicated(mesh))
    product = jax.jit(lambda x, w: (x @ w).sum(0), out_shardings=replicated(mesh))
    found = memory.figures(product.lower(x, w).compile())
    assert found.arguments == 4 * 16 * 4 + 16 * 4 * 4  # half the rows, all of the matrix
    assert found.temporaries >= 4 * 4  # the result
    assert found.peak == found.arguments + found.temporaries
    assert found.operations >= 2 * 4 * 16 * 4
    assert found.collectives == {"all-reduce": 1}


def test_training_step_of_a_configuration_is_predicted_without_running_it(stand_in):
    config = experiment()
    assert programs.training_vocabulary(config).names == scenes_vocabulary("train").names
    mesh = make_mesh(jax.devices()[:4], MeshConfig(fsdp=2))
    found = memory.figures(programs.lower(config, "train", mesh).compile())
    state = step.abstract_state(config, mesh)
    held = sum(size for _, size in partition.bytes_per_device(state, mesh))
    assert 0 <= found.arguments - held < 20_000  # the rest is the batch and the tokens
    text = memory.report("test, batch 4", found, available=16.0)
    assert "GiB of 16 GiB: fits" in text
    assert "all-reduce" in text
    assert "DOES NOT FIT" in memory.report("test", found, available=1e-9)


def test_report_on_a_configuration_file(stand_in):
    path = pathlib.Path(__file__).resolve().parents[2] / "configs" / "tiny.py"
    overrides = ["--config.mesh.fsdp=2", "--config.train.batch_size=8", "--config.model.mh_fpn=False"]
    overrides += ["--config.model.dc_hsp=False", "--config.model.adaptation=none"]
    text = memory.report_for(str(path), overrides)
    assert text.startswith(
        "tiny, train, batch 8 over 4 devices (data 2 x fsdp 2 x classes 1), on each device:\n  peak "
    )
    with pytest.raises(InputError, match=r"train.batch_size is 3, .*set it to 4$"):
        memory.report_for(str(path), ["--config.train.batch_size=3"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=nothing.py"], "nothing.py is no Python file with a get_config()"),
        (["--config=configs/tiny.py", "--config.train.step=3"], "did you mean train.steps?"),
        (["--config=configs/tiny.py", "--topolgy=v5e:2x2"], "topolgy"),
        (["--config=configs/tiny.py", "--topology=v0:1x1"], "cannot compile for the topology 'v0:1x1'"),
    ],
)
def test_mistakes_on_its_command_line(arguments, words, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).resolve().parents[2])
    done = CliRunner().invoke(app.app, ["memory", *arguments])
    assert done.exit_code == 2
    assert "error: " in done.output
    assert words in done.output


def test_unknown_topology_is_refused():
    with pytest.raises(InputError, match=r"cannot compile for the topology 'v0:1x1'.*a name such as v5e:2x2"):
        programs.topology_devices("v0:1x1")


# What XLA writes down of a compilation for a TPU, shortened.
REPORT = """
    Memory Space: default (color=0)
    Total bytes: 5000 (4.9KiB)
      cumulative_size;       size;       offset; used_by_n_values; shapes_list

    Memory Space: color=1
    Total bytes: 70000 (68.4KiB)
"""
BUFFERS = """
    BufferAssignment:
    allocation 0: size 512, thread-local:
    allocation 1: size 2000, parameter 0, shape |f32[500]| at ShapeIndex {}, maybe-live-out:
     value: <1 p.1 @0> (size=2000,offset=0): f32[500]{0:T(128)}
    allocation 2: size 1000, maybe-live-out:
    allocation 3: size 800, parameter 11, shape |u8[800]| at ShapeIndex {}:
    allocation 4: size 688, preallocated-temp:
"""
PROGRAM = """
    %a = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
    %b = (f32[8]{0}, f32[8]{0:T(128)S(1)}) all-gather-start(%a), dimensions={0}
    %c = f32[8]{0} all-gather-done(%b)
"""


def test_what_the_compiler_wrote_down_is_read():
    report, buffers = textwrap.dedent(REPORT), textwrap.dedent(BUFFERS)
    found = tpu_compiler.Planned(tpu_compiler.total(report), tpu_compiler.arguments(buffers), PROGRAM)
    figures = memory.figures_ahead_of_time(found)
    assert (figures.peak, figures.arguments, figures.temporaries) == (5000, 2800, 2200)
    assert figures.collectives == {"all-reduce": 1, "all-gather": 1}
    assert figures.operations is None
    text = memory.report("test", figures, available=16.0)
    assert "operations" not in text
    assert "1 all-reduce, 1 all-gather" in text


def test_why_a_compilation_ended_is_said_in_the_compilers_words():
    printed = "W0000 something\nRESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.1G of 15.7G.\nmore\n"
    words = "Ran out of memory in memory space hbm. Used 20.1G of 15.7G."
    assert tpu_compiler.refusal(printed) == words
    assert tpu_compiler.refusal("a\nerror: train.batch_size is 3\n") == "error: train.batch_size is 3"
    assert tpu_compiler.refusal("Segmentation fault\n") == "Segmentation fault"


@pytest.mark.slow
def test_step_of_the_published_recipe_is_compiled_for_a_tpu_and_fits():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu: pip install '.[tpu]'")
    config = dataclasses.replace(vitb.experiment(), init="random")
    found = memory.figures_ahead_of_time(tpu_compiler.planned(config, "train", "v5e:2x2"))
    assert 0.5 * memory.GIB < found.arguments < found.peak < memory.DEVICE_GIB["v5e"] * memory.GIB
    assert found.collectives["all-reduce"] >= 1
