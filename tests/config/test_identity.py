"""What makes two runs the same: fields that define the result, and those that may change."""

import dataclasses

from ahs_seg_jax.config import identity
from tests.support.experiments import scratch


def test_differences_name_what_changes_the_result_and_nothing_else():
    first = scratch()
    train = dataclasses.replace(first.train, batch_size=8, log_every=7, keep=5)
    data = dataclasses.replace(first.data, root="elsewhere", num_threads=1)
    evaluation = dataclasses.replace(first.eval, limit=3)
    second = dataclasses.replace(first, name="other", mode="eval", train=train, data=data, eval=evaluation)
    assert identity.differences(first, second) == ["train.batch_size: stored 4, now 8"]
    assert identity.fingerprint(first) != identity.fingerprint(second)


def test_model_fields_are_not_mistaken_for_mode():
    first = scratch()
    second = dataclasses.replace(first, model=first.model.replace(alpha=0.5))
    assert identity.differences(first, second) == ["model.alpha: stored 0.3, now 0.5"]


def test_fingerprint_ignores_what_does_not_change_the_result():
    first = scratch()
    same = dataclasses.replace(first, name="again", model=first.model.replace(remat="all"))
    assert identity.fingerprint(first) == identity.fingerprint(same)
    assert identity.differences(first, same) == []
