"""Every benchmark of the training step can be traced, and the parts' work makes sense beside the whole's."""

import jax
import pytest

from ahs_seg_jax.models import architecture
from benchmarks.counting import flops
from benchmarks.settings import Settings, complete
from benchmarks.work import training
from tests.support.training import small_model

QUICK = ("rotations", "correlation", "decoder", "image_losses")
SLOW = ("text_tower", "image_tower", "spatial", "class_layers", "update")


@pytest.fixture
def settings(monkeypatch) -> Settings:
    """The smallest whole model."""
    monkeypatch.setitem(architecture.PRESETS, "tiny", small_model)
    return complete(Settings(train_classes=5, batch=4, classes=5), "cpu")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_part_can_be_traced(settings, name):
    program = getattr(training, name)(settings)
    work = flops.count(program.function, *program.args)
    assert (work.flops > 0) == (name != "update")  # an update has no products
    assert program.items >= 1


@pytest.mark.slow
def test_recomputation_is_no_useful_work(settings):
    again = complete(Settings(train_classes=5, batch=2, class_chunk=2, remat="all"), "cpu")
    program = training.forward_backward(again)
    assert program.useful is not None
    done = flops.count(program.function, *program.args).flops
    useful = flops.count(program.useful, *program.args).flops
    assert useful < done < 2 * useful


@pytest.mark.slow
def test_whole_step_hands_its_state_on(settings):
    program = training.whole_step(settings)
    state, metrics = jax.eval_shape(program.function, *program.args)
    assert program.advance is not None
    assert program.advance((state, metrics), program.args) == (state, *program.args[1:])
