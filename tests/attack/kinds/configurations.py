"""Configurations with fields that hold nonsense, as dictionaries and as flags of the command line."""

import dataclasses
import math
import pathlib

from ahs_seg_jax.config import Experiment, from_config_dict, load, smoke
from ahs_seg_jax.errors import ConfigError, InputError
from ahs_seg_jax.models.fields import flatten
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.support import ROOT

TEXTS = (
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "10**9",
        "99999999999999999999",
        "abc",
        "",
        "None",
        "True",
        "()",
        "(1,)",
    ),
    *("(nan,nan)", "[1,2,3]", "{}", "'x'", "(-1,-1)", "0x10", "1_000", "\u0663", "../x", "__import__('os').getpid()"),
)
FILES = (
    "configs/tiny.py",
    "configs/tiny.py:smoke",
    "configs/folder.py",
    "configs/vitb.py",
    "configs/tiny.py:nothing",
    "x.py",
)
NAN_FIELDS = {"losses.boundary_log_floor", "mesh.data", "mesh.fsdp", "mesh.classes", "model.image.pixel_mean"}


class Attack(Kind):
    mistakes = (ConfigError, InputError)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self._plain = dataclasses.asdict(smoke(Experiment()))
        self._fields = [path for path, _ in flatten(Experiment())]

    def run(self, rng):
        if rng.random() < 0.6:
            content = mutations.change_json(self._plain, rng)
            self._check(from_config_dict(content))
            return
        chosen = [mutations.pick(rng, self._fields) for _ in range(int(rng.integers(1, 4)))]
        flags = [
            f"--config.{field}{mutations.pick(rng, ('', '', '', 'x', '.y'))}={mutations.pick(rng, TEXTS)}"
            for field in chosen
        ]
        self._check(load(ROOT / mutations.pick(rng, FILES), flags))

    def _check(self, experiment):
        for path, value in flatten(experiment):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise Silent(f"{path} is {value}")
                if isinstance(number, int | float) and number < 0 and path not in NAN_FIELDS:
                    raise Silent(f"{path} is {value}")

    def is_clear(self, said):
        return "config" in said and len(said) > 40
